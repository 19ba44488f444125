//! Whether capture has seen each call that changed a file of the data directory.
//!
//! A hook tells the tracker what a call has changed before the thread goes on. So the lines of a thread between a call
//! that changed something and its next one hold what capture saw of it. Which inodes a path or a descriptor stands for
//! is taken from what the kernel answered to the thread's own calls of the stat family.

use super::log::{Call, Key, Line, Said, Thread, Time, number, path_in};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

/// `Marks` of src/tracker/entry.rs.
const ATTRIBUTES: u64 = 2;
const XATTRS: u64 = 4;
const NAMES: u64 = 8;

/// Calls that strace shows because we look at them, and that change nothing.
const LOOKS: &[&str] = &["fstat", "newfstatat", "lseek", "mprotect", "mremap"];

/// What the judge found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Judged changes of files of the data directory, by call.
    pub changes: BTreeMap<String, u64>,
    /// Those of them that escaped capture, on files that it knows as unseen (P24): how many by path.
    pub unseen: BTreeMap<String, u64>,
    /// Asynchronous writes that were entered, and those among them whose completion has become a mark.
    pub flights: [u64; 2],
    /// What capture has missed.
    pub problems: Problems,
}

/// What is wrong: in short, how often, and the first in full.
pub type Problems = BTreeMap<String, (u64, String)>;

impl Verdict {
    /// Something is wrong.
    pub fn add(&mut self, what: &str, which: String) {
        self.problems.entry(what.to_owned()).or_insert((0, which)).0 += 1;
    }
}

/// Everything that all threads said, and when.
#[derive(Debug, Default)]
pub struct Marks {
    /// Ranges that were marked; whole files: to `u64::MAX`.
    pub ranges: HashMap<Key, Vec<(Time, Range<u64>)>>,
    /// Files that are known as written unseen.
    pub unseen: BTreeSet<Key>,
    /// Asynchronous writes.
    pub flights: Vec<Said>,
    /// Everything was marked.
    pub everything: bool,
    /// Between these every change is to be seen.
    pub window: Option<Range<Time>>,
}

impl Marks {
    /// Of all threads.
    pub fn of(threads: &[Thread]) -> Marks {
        let mut marks = Marks::default();
        let [mut begin, mut end] = [None; 2];
        for said in threads.iter().flat_map(|thread| &thread.lines).filter_map(Line::said) {
            match said.what.as_str() {
                "range" | "born" => {
                    marks.ranges.entry(said.key).or_default().push((said.at, said.range.clone()));
                }
                "unseen" => drop(marks.unseen.insert(said.key)),
                "flight" => marks.flights.push(said.clone()),
                "everything" => marks.everything = true,
                "attached" => begin = Some(said.at),
                "ending" => end = Some(said.at),
                _ => {}
            }
        }
        marks.window = begin.zip(end).map(|(begin, end)| begin..end);
        marks
    }

    /// Whether something of this range was marked, or is on its way to the file.
    pub fn touch(&self, key: Key, range: &Range<u64>) -> bool {
        let meets = |other: &Range<u64>| other.start < range.end && range.start < other.end;
        self.everything
            || self.ranges.get(&key).is_some_and(|known| known.iter().any(|(_, known)| meets(known)))
            || self.flights.iter().any(|flight| flight.key == key && meets(&flight.range))
    }
}

impl Line {
    fn said(&self) -> Option<&Said> {
        match self {
            Line::Said(said) => Some(said),
            Line::Call(_) => None,
        }
    }

    fn call(&self) -> Option<&Call> {
        match self {
            Line::Call(call) => Some(call),
            Line::Said(_) => None,
        }
    }
}

/// A file as a call names it. Another thread may give it another path at any time; a descriptor leads to the same one.
#[derive(Debug)]
struct File {
    fd: Option<String>,
    path: String,
}

/// What a call has changed, and what capture must have said of it.
#[derive(Debug)]
enum Change {
    /// These bytes of the file.
    Range(File, Range<u64>),
    /// So many bytes, where the descriptor's position was.
    AtPosition(File, u64),
    /// The file was made or emptied.
    Born(File),
    /// A name came or went: the path.
    Name(String),
    /// Mode, owner or times (or extended attributes) of the file.
    Attributes(File, u64),
    /// A writable mapping of the file.
    Mapped(File),
    /// So many requests were taken; their files by path.
    Requests(u64, Vec<(String, Range<u64>)>),
    /// Something that the table of this test does not have.
    Unknown,
}

/// Judges the calls of all threads on files below `data`. `outer`: what strace shows before paths that the process sees.
pub fn judge(threads: &[Thread], marks: &Marks, data: &str, outer: &str) -> Verdict {
    let mut verdict = Verdict::default();
    let Some(window) = &marks.window else {
        verdict.add("capture was never attached, or never ended: there is nothing to judge", String::new());
        return verdict;
    };
    let scene = Scene { marks, data, outer, keys: keys(threads, outer) };
    for thread in threads {
        scene.judge(thread, window, &mut verdict);
    }
    // Completions are read when the next request is submitted, or when they are reaped: what was entered well before
    // the last submission is over, and has become a mark.
    let last = marks.flights.iter().map(|flight| flight.at).max().unwrap_or(0);
    let end = last.min(window.end).saturating_sub(2_000_000_000);
    for flight in
        marks.flights.iter().filter(|flight| window.contains(&flight.at) && !flight.range.is_empty())
    {
        verdict.flights[0] += 1;
        let covers = |(at, range): &(Time, Range<u64>)| *at > flight.at && holds(range, &flight.range);
        if marks.ranges.get(&flight.key).is_some_and(|ranges| ranges.iter().any(covers)) {
            verdict.flights[1] += 1;
        } else if flight.at < end {
            verdict.add("an asynchronous write was never marked", format!("{flight:?}"));
        }
    }
    verdict
}

fn holds(outer: &Range<u64>, inner: &Range<u64>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// What each path has ever stood for, as the kernel told any thread.
fn keys(threads: &[Thread], outer: &str) -> HashMap<String, BTreeSet<Key>> {
    let mut keys = HashMap::<String, BTreeSet<Key>>::new();
    let calls = threads.iter().flat_map(|thread| &thread.lines).filter_map(Line::call);
    for (path, key) in calls.filter(|call| call.result == 0).filter_map(Call::found) {
        keys.entry(inner(&path, outer)).or_default().insert(key);
    }
    keys
}

/// A path as the process sees it.
fn inner(path: &str, outer: &str) -> String {
    path.strip_prefix(outer).unwrap_or(path).to_owned()
}

struct Scene<'a> {
    marks: &'a Marks,
    data: &'a str,
    outer: &'a str,
    keys: HashMap<String, BTreeSet<Key>>,
}

impl Scene<'_> {
    /// The path as the process sees it, if it is below the data directory.
    fn ours(&self, path: Option<String>) -> Option<String> {
        let path = inner(&path?, self.outer);
        let below = path.strip_prefix(self.data)?;
        (below.is_empty() || below.starts_with('/')).then_some(path)
    }

    fn judge(&self, thread: &Thread, window: &Range<Time>, verdict: &mut Verdict) {
        // What the thread has looked at since its last change: paths, descriptors, and names that were not there.
        let mut known = HashMap::<String, Option<Key>>::new();
        let mut entered = Vec::new();
        for (index, line) in thread.lines.iter().enumerate() {
            let call = match line {
                Line::Said(said) => {
                    if said.what == "flight" {
                        entered.push(said);
                    }
                    continue;
                }
                Line::Call(call) => call,
            };
            self.look(call, &mut known);
            if call.result < 0 || !window.contains(&call.at) {
                continue;
            }
            let changes = self.changes(call, &known);
            if changes.is_empty() {
                continue;
            }
            *verdict.changes.entry(call.name.clone()).or_default() += 1;
            // Until the thread changes something again.
            let after: Vec<&Line> = thread.lines[index + 1..]
                .iter()
                .take_while(|line| {
                    line.call().is_none_or(|call| call.result < 0 || self.changes(call, &known).is_empty())
                })
                .collect();
            // What is made by this call is looked at after it. What was looked at before may have changed by then.
            let mut looked = std::mem::take(&mut known);
            looked.retain(|_, key| key.is_some());
            if call.opened().is_some() {
                looked.remove(&call.result.to_string());
            }
            let mut later = HashMap::new();
            for call in after.iter().filter_map(|line| line.call()) {
                let mut found = HashMap::new();
                self.look(call, &mut found);
                for (path, key) in found {
                    later.entry(path).or_insert(key);
                }
            }
            later.extend(looked);
            let then = later;
            let said: Vec<&Said> = after.iter().filter_map(|line| line.said()).collect();
            for change in changes {
                let Err(missing) = self.seen(&change, call, &said, &after, &then, &mut entered) else {
                    continue;
                };
                let path = change.path();
                let unseen = path
                    .and_then(|path| self.keys.get(path))
                    .is_some_and(|keys| keys.iter().any(|key| self.marks.unseen.contains(key)));
                if let (true, Some(path)) = (unseen, path) {
                    *verdict.unseen.entry(path.to_owned()).or_default() += 1;
                } else {
                    verdict.add(
                        &format!("{}: {missing}", call.name),
                        format!("thread {}: {change:?} by {call:?}", thread.tid),
                    );
                }
            }
            if matches!(call.name.as_str(), "io_submit" | "io_uring_enter") {
                entered.clear();
            }
        }
    }

    /// Remembers what the kernel tells.
    fn look(&self, call: &Call, known: &mut HashMap<String, Option<Key>>) {
        if let Some((path, key)) = call.found().filter(|_| call.result == 0) {
            // By its number only, for calls that look at an open file.
            let is_open = call.name == "fstat" || call.arg(1) == "\"\"";
            if let Some(fd) = descriptor(call.arg(0)).filter(|_| is_open) {
                known.insert(fd, Some(key));
            }
            known.insert(inner(&path, self.outer), Some(key));
        } else if call.name == "newfstatat"
            && call.rest.starts_with("ENOENT")
            && let Some(path) = call.path(self.data, Some(0), 1)
        {
            known.insert(inner(&path, self.outer), None);
        }
    }

    /// What a call that succeeded has changed below the data directory.
    fn changes(&self, call: &Call, known: &HashMap<String, Option<Key>>) -> Vec<Change> {
        let file = |index| {
            let path = self.ours(call.path_of_fd(index).map(str::to_owned))?;
            Some(File { fd: descriptor(call.arg(index)), path })
        };
        let path = |directory, path| self.ours(call.path(self.data, directory, path));
        let from = |index| call.number(index).unwrap_or(0);
        let count = call.result as u64;
        let mut changes = Vec::new();
        let mut add = |change: Option<Change>| changes.extend(change);
        match call.name.as_str() {
            name if LOOKS.contains(&name) => {}
            "pwrite64" | "pwritev" | "pwritev2" if call.arg(3) != "-1" => {
                add(file(0).map(|file| Change::Range(file, from(3)..from(3) + count)));
            }
            "write" | "writev" | "sendfile" | "pwritev2" => {
                add(file(0).filter(|_| count > 0).map(|file| Change::AtPosition(file, count)));
            }
            "copy_file_range" | "splice" => {
                let to = call.arg(3).trim_matches(['[', ']']);
                add(file(2).map(|file| match number(to) {
                    Some(to) => Change::Range(file, to.saturating_sub(count)..to),
                    None => Change::AtPosition(file, count),
                }));
            }
            "ftruncate" => add(file(0).map(|file| Change::Range(file, from(1)..u64::MAX))),
            "truncate" => add(path(None, 0).map(|path| Change::Range(File::at(path), from(1)..u64::MAX))),
            "fallocate" => add(file(0).map(|file| Change::Range(file, from(2)..from(2) + from(3)))),
            "open" | "openat" | "openat2" | "creat" => {
                let (directory, name) =
                    if call.name.starts_with("openat") { (Some(0), 1) } else { (None, 0) };
                let flags = call.args.get(name + 1..).unwrap_or_default().join(",");
                let creates = flags.contains("O_CREAT") || call.name == "creat";
                let named = path(directory, name);
                let opened = || {
                    let path = self.ours(call.opened().map(str::to_owned))?;
                    Some(File { fd: Some(call.result.to_string()), path })
                };
                let is_new = named.as_ref().is_some_and(|path| known.get(path).copied().flatten().is_none());
                if flags.contains("O_TMPFILE") || flags.contains("O_TRUNC") || call.name == "creat" {
                    add(opened().map(Change::Born));
                }
                if creates && is_new {
                    add(opened().map(Change::Born));
                    add(named.map(Change::Name));
                }
            }
            "rename" => [0, 1].into_iter().for_each(|at| add(path(None, at).map(Change::Name))),
            "renameat" | "renameat2" => {
                [0, 2].into_iter().for_each(|at| add(path(Some(at), at + 1).map(Change::Name)));
            }
            "unlink" | "rmdir" | "mkdir" | "mknod" => add(path(None, 0).map(Change::Name)),
            "unlinkat" | "mkdirat" | "mknodat" => add(path(Some(0), 1).map(Change::Name)),
            "link" | "symlink" => add(path(None, 1).map(Change::Name)),
            "linkat" => add(path(Some(2), 3).map(Change::Name)),
            "symlinkat" => add(path(Some(1), 2).map(Change::Name)),
            "chmod" | "chown" | "lchown" | "utime" | "utimes" => {
                add(path(None, 0).map(|path| Change::Attributes(File::at(path), ATTRIBUTES)));
            }
            "fchmod" | "fchown" => add(file(0).map(|file| Change::Attributes(file, ATTRIBUTES))),
            "fchmodat" | "fchmodat2" | "fchownat" | "utimensat" | "futimesat" => {
                let at = if call.arg(1) == "NULL" { file(0) } else { path(Some(0), 1).map(File::at) };
                add(at.map(|file| Change::Attributes(file, ATTRIBUTES)));
            }
            "setxattr" | "lsetxattr" | "removexattr" | "lremovexattr" => {
                add(path(None, 0).map(|path| Change::Attributes(File::at(path), XATTRS)));
            }
            "fsetxattr" | "fremovexattr" => add(file(0).map(|file| Change::Attributes(file, XATTRS))),
            "mmap" if call.arg(3).contains("MAP_SHARED") && call.arg(2).contains("PROT_WRITE") => {
                add(file(4).map(Change::Mapped));
            }
            "mmap" => {}
            "ioctl" => add(file(0).filter(|_| !call.arg(1).starts_with("TC")).map(|_| Change::Unknown)),
            "io_submit" => add((count > 0).then(|| Change::Requests(count, self.requests(call)))),
            "io_uring_enter" => add((count > 0).then(|| Change::Requests(count, Vec::new()))),
            _ => add(Some(Change::Unknown)),
        }
        changes
    }

    /// The writes among the requests that io_submit took.
    fn requests(&self, call: &Call) -> Vec<(String, Range<u64>)> {
        let taken = call.arg(2).split("aio_lio_opcode=").skip(1).take(call.result as usize);
        taken
            .filter(|request| request.starts_with("IOCB_CMD_PWRITE"))
            .filter_map(|request| {
                let field = |name: &str| {
                    let text = request.split_once(name)?.1;
                    Some(&text[..text.find([',', '}', ']'])?])
                };
                let file = self.ours(
                    path_in(request.split_once("aio_fildes=")?.1.split(", aio_").next()?)?.to_owned().into(),
                )?;
                // Of a vector the length is not shown so.
                let length = field("aio_nbytes=").and_then(number).unwrap_or(1);
                let offset = field("aio_offset=").and_then(number)?;
                Some((file, offset..offset + length))
            })
            .collect()
    }

    /// Whether capture said what it must of a change; else what is missing.
    fn seen(
        &self,
        change: &Change,
        call: &Call,
        said: &[&Said],
        after: &[&Line],
        known: &HashMap<String, Option<Key>>,
        entered: &mut Vec<&Said>,
    ) -> Result<(), String> {
        let key = |path: &str| known.get(path).copied().flatten().ok_or("capture did not even look at it");
        let key_of = |file: &File| match file.fd.as_ref().and_then(|fd| known.get(fd).copied().flatten()) {
            Some(key) => Ok(key),
            None => key(&file.path),
        };
        let has = |what: &str, fits: &dyn Fn(&Said) -> bool| {
            said.iter().any(|said| said.what == what && fits(said))
        };
        if has("everything", &|_| true) {
            return Ok(());
        }
        let need = |is: bool, text: &str| if is { Ok(()) } else { Err(text.to_owned()) };
        match change {
            Change::Range(file, range) => {
                let key = key_of(file)?;
                // Several marks may make one range up.
                let mut from = range.start;
                let mut ranges: Vec<_> = said
                    .iter()
                    .filter(|said| said.key == key && matches!(said.what.as_str(), "range" | "born"))
                    .map(|said| said.range.clone())
                    .collect();
                ranges.sort_by_key(|range| range.start);
                for range in ranges {
                    if range.start <= from {
                        from = from.max(range.end);
                    }
                }
                need(from >= range.end, "no mark holds this range")
            }
            Change::AtPosition(file, count) => {
                let key = key_of(file)?;
                let is_position = |call: &&Call| {
                    call.name == "lseek"
                        && call.arg(2) == "SEEK_CUR"
                        && call.path_of_fd(0).map(|path| inner(path, self.outer)).as_ref() == Some(&file.path)
                };
                let position = after.iter().filter_map(|line| line.call()).find(is_position);
                let range = match position {
                    Some(position) => {
                        let end = position.result.max(0) as u64;
                        end.saturating_sub(*count)..end
                    }
                    None => u64::MAX - 1..u64::MAX,
                };
                let fits = |said: &Said| said.key == key && holds(&said.range, &range);
                need(
                    has("range", &fits) || has("born", &fits),
                    "no mark holds what was written at the position",
                )
            }
            Change::Born(file) => {
                let key = key_of(file)?;
                need(has("born", &|said| said.key == key), "the inode is not marked as made anew")
            }
            Change::Name(path) => {
                if has("all-names", &|_| true) {
                    return Ok(());
                }
                let parent = path.rsplit_once('/').map_or("/", |(parent, _)| parent);
                let key = key(parent)?;
                let fits = |said: &Said| said.key == key && said.range.start & NAMES != 0;
                need(has("marks", &fits), "the directory of the name is not marked")
            }
            Change::Attributes(file, bits) => {
                let key = key_of(file)?;
                let fits = |said: &Said| said.key == key && said.range.start & bits != 0;
                need(
                    has("marks", &fits) || has("born", &|said| said.key == key),
                    "the attributes are not marked",
                )
            }
            Change::Mapped(_) => Err("the file is not known as unseen".into()),
            Change::Requests(count, writes) => {
                // What an earlier call did not take stays entered for the next.
                need(entered.len() as u64 >= *count, "fewer requests were entered than the kernel took")?;
                for (path, range) in writes {
                    let keys = self.keys.get(path);
                    let fits = |flight: &&Said| {
                        keys.is_some_and(|keys| keys.contains(&flight.key)) && holds(&flight.range, range)
                    };
                    need(entered.iter().any(fits), "a write was not entered as in flight")?;
                }
                Ok(())
            }
            Change::Unknown => Err(format!(
                "this test does not know whether {} changes a file: add it to its tables",
                call.name
            )),
        }
    }
}

impl Change {
    fn path(&self) -> Option<&str> {
        match self {
            Change::Range(file, _)
            | Change::AtPosition(file, _)
            | Change::Born(file)
            | Change::Attributes(file, _)
            | Change::Mapped(file) => Some(&file.path),
            Change::Name(path) => Some(path),
            Change::Requests(..) | Change::Unknown => None,
        }
    }
}

impl File {
    fn at(path: String) -> File {
        File { fd: None, path }
    }
}

/// The number in `5</path>`.
fn descriptor(text: &str) -> Option<String> {
    text.split_once('<').map(|(number, _)| number.to_owned())
}
