//! A program that writes all the time and backs itself up when told, in a process of its own: this test's program once
//! more. What it says, it says through a socket.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use twin::library::{Callbacks, Library};

/// Set for the program: its socket, and the directory that it writes into and backs up.
const SOCKET: &str = "FAULTS_SOCKET";
const SOURCE: &str = "FAULTS_SOURCE";
/// Longest wait for what should come at once.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What came of a backup.
#[derive(Debug)]
pub struct Outcome {
    /// What the call returned.
    pub value: i32,
    /// What `error_fun` was told.
    pub message: String,
}

/// The program, seen from outside.
pub struct Program {
    child: Child,
    orders: UnixStream,
    outcomes: Receiver<Outcome>,
    counts: Receiver<Count>,
    pub source: PathBuf,
}

/// What its writer has done.
#[derive(Debug)]
pub struct Count {
    /// Calls that change files.
    pub writes: u64,
    /// The longest of them, since the last question.
    pub longest: Duration,
    /// Whether the backup under way has called its poll function, and so can be ended.
    pub polled: bool,
    /// Whether it waits in `before_stop_capt_fun`.
    pub stopped: bool,
}

/// Threads, and descriptors but those that the writer opens and closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub struct Holds {
    pub threads: usize,
    pub descriptors: usize,
}

impl Program {
    /// Starts it on a source of its own below `scratch`; `test` is the test that calls [`be_the_program`].
    pub fn start(scratch: &Path, test: &str) -> Program {
        let (source, socket) = (scratch.join("source"), scratch.join("socket"));
        make_source(&source);
        let listener = UnixListener::bind(&socket).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(SOCKET, &socket)
            .env(SOURCE, &source)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let orders = listener.accept().unwrap().0;
        let lines = BufReader::new(orders.try_clone().unwrap()).lines();
        let ((outcome, outcomes), (count, counts)) = (channel(), channel());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let words: Vec<&str> = line.split('\t').collect();
                let number = |at: usize| words[at].parse::<u64>().unwrap();
                let sent = match words[0] {
                    "outcome" => outcome
                        .send(Outcome { value: number(1) as i32, message: words[2].to_owned() })
                        .is_ok(),
                    _ => {
                        let (polled, stopped) = (number(3) == 1, number(4) == 1);
                        let longest = Duration::from_micros(number(2));
                        count.send(Count { writes: number(1), longest, polled, stopped }).is_ok()
                    }
                };
                if !sent {
                    return;
                }
            }
        });
        Program { child, orders, outcomes, counts, source }
    }

    fn say(&mut self, what: &str) {
        writeln!(self.orders, "{what}").unwrap();
    }

    /// Begins a backup.
    pub fn begin(&mut self, image: &Path) {
        self.say(&format!("backup {}", image.display()));
    }

    /// Begins a backup that stops when everything has been copied once, before capture ends, and waits until it has.
    pub fn begin_and_stop(&mut self, image: &Path) {
        self.say(&format!("stopping {}", image.display()));
        let until = Instant::now() + PATIENCE;
        while !self.count().stopped {
            assert!(Instant::now() < until, "the backup has not come so far");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets it go on.
    pub fn go_on(&mut self) {
        self.say("go on");
    }

    /// Has it end the backup, through `poll_fun`.
    pub fn kill(&mut self) {
        self.say("kill");
    }

    pub fn outcome_within(&mut self, time: Duration) -> Option<Outcome> {
        self.outcomes.recv_timeout(time).ok()
    }

    /// A backup from beginning to end.
    pub fn back_up(&mut self, image: &Path) -> Outcome {
        self.begin(image);
        self.outcome_within(PATIENCE).expect("the backup hangs")
    }

    pub fn count(&mut self) -> Count {
        self.say("count");
        self.counts.recv_timeout(PATIENCE).expect("the program hangs")
    }

    pub fn holds(&self) -> Holds {
        let proc = format!("/proc/{}", self.child.id());
        let threads = fs::read_dir(format!("{proc}/task")).unwrap().count();
        let busy = self.source.join("busy");
        let all = fs::read_dir(format!("{proc}/fd")).unwrap().flatten();
        let lasting =
            all.filter(|fd| fs::read_link(fd.path()).is_ok_and(|target| !target.starts_with(&busy)));
        Holds { threads, descriptors: lasting.count() }
    }

    /// Resident memory, KiB.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every kind of thing that an image is made of, and the writer's directory.
fn make_source(source: &Path) {
    fs::create_dir_all(source.join("still/sub")).unwrap();
    fs::create_dir(source.join("busy")).unwrap();
    let still = source.join("still");
    fs::write(still.join("large"), vec![7; 1_300_000]).unwrap();
    fs::write(still.join("empty"), "").unwrap();
    fs::write(still.join("sub/small"), "small").unwrap();
    fs::hard_link(still.join("sub/small"), still.join("linked")).unwrap();
    std::os::unix::fs::symlink("sub/small", still.join("link")).unwrap();
    let holes = File::create(still.join("holes")).unwrap();
    holes.write_all_at(&[1; 4096], 0).unwrap();
    holes.write_all_at(&[2; 4096], 1 << 20).unwrap();
    holes.set_len(3 << 20).unwrap();
    let path = twin::library::c_string(&still.join("sub/small"));
    // SAFETY: C strings and a buffer of that size.
    let set = unsafe { libc::setxattr(path.as_ptr(), c"user.x".as_ptr(), c"value".as_ptr().cast(), 5, 0) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

#[derive(Default)]
struct State {
    writes: AtomicU64,
    /// Microseconds.
    longest: AtomicU64,
    killed: AtomicBool,
    polled: AtomicBool,
    /// It is to stop; it has.
    stop: AtomicBool,
    stopped: AtomicBool,
}

impl State {
    /// As [`Count`] has it.
    fn count(&self) -> String {
        let writes = self.writes.load(Ordering::SeqCst);
        let longest = self.longest.swap(0, Ordering::SeqCst);
        let [polled, stopped] =
            [&self.polled, &self.stopped].map(|flag| u8::from(flag.load(Ordering::SeqCst)));
        format!("{writes}\t{longest}\t{polled}\t{stopped}")
    }
}

/// In the program, does what it is for and never returns; elsewhere, nothing.
pub fn be_the_program() {
    let (Some(socket), Some(source)) = (std::env::var_os(SOCKET), std::env::var_os(SOURCE)) else { return };
    let (socket, source) = (UnixStream::connect(socket).unwrap(), PathBuf::from(source));
    let library = Library::open(&Library::find().unwrap()).unwrap();
    let state = Arc::new(State::default());
    let said = Arc::new(Mutex::new(socket.try_clone().unwrap()));
    std::thread::spawn({
        let (state, busy) = (state.clone(), source.join("busy"));
        move || write(&state, &busy)
    });
    let (order, orders) = channel::<PathBuf>();
    std::thread::spawn({
        let (state, said) = (state.clone(), said.clone());
        move || {
            for line in BufReader::new(socket).lines().map_while(Result::ok) {
                match line.split_once(' ') {
                    Some((how @ ("backup" | "stopping"), image)) => {
                        state.killed.store(false, Ordering::SeqCst);
                        state.polled.store(false, Ordering::SeqCst);
                        state.stop.store(how == "stopping", Ordering::SeqCst);
                        order.send(image.into()).unwrap();
                    }
                    Some(("go", "on")) => state.stop.store(false, Ordering::SeqCst),
                    _ if line == "kill" => state.killed.store(true, Ordering::SeqCst),
                    _ => writeln!(said.lock().unwrap(), "count\t{}", state.count()).unwrap(),
                }
            }
            // Nobody is there any more.
            std::process::exit(0);
        }
    });
    for image in orders {
        let mut message = String::new();
        let callbacks = Callbacks {
            poll: Some(Box::new(|_, _| {
                state.polled.store(true, Ordering::SeqCst);
                if state.killed.load(Ordering::SeqCst) { libc::EINTR } else { 0 }
            })),
            before_stop: Some(Box::new(|| {
                while state.stop.load(Ordering::SeqCst) {
                    state.stopped.store(true, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(1));
                }
                state.stopped.store(false, Ordering::SeqCst);
            })),
            error: Some(Box::new(|_, text| message = text.to_string_lossy().replace(['\t', '\n'], " "))),
            ..Callbacks::default()
        };
        let value = library.backup(&[(&source, &image)], callbacks);
        writeln!(said.lock().unwrap(), "outcome\t{value}\t{message}").unwrap();
    }
    std::process::exit(0);
}

/// Writes, renames, deletes; an error ends the program.
fn write(state: &State, busy: &Path) {
    let log = File::create(busy.join("log")).unwrap();
    let timed = |work: &dyn Fn() -> std::io::Result<()>| {
        let begun = Instant::now();
        if let Err(error) = work() {
            eprintln!("a write of the program has failed: {error}");
            std::process::exit(1);
        }
        state.longest.fetch_max(begun.elapsed().as_micros() as u64, Ordering::SeqCst);
        state.writes.fetch_add(1, Ordering::SeqCst);
    };
    for number in 0u64.. {
        let [file, renamed] = ["file", "renamed"].map(|name| busy.join(name));
        timed(&|| log.write_all_at(&number.to_le_bytes(), number % 1000 * 512));
        timed(&|| fs::write(&file, number.to_le_bytes()));
        timed(&|| fs::rename(&file, &renamed));
        timed(&|| fs::remove_file(&renamed));
        // Leaves the machine to others; nothing is measured.
        std::thread::sleep(Duration::from_millis(1));
    }
}
