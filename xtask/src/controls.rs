//! `cargo xtask controls`: breaks rules of the protocol in a copy of the sources, one at a time, and shows that the
//! twin test notices each. For docs/controls.md; takes too long for the suite.

use crate::flags::Flags;
use crate::{Failure, needs, paths, sh};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

/// A text of a source file, and what stands there instead.
type Edit = (&'static str, &'static str, &'static str);

/// A rule, broken.
struct Control {
    rule: &'static str,
    what: &'static str,
    edits: &'static [Edit],
    shown_by: By,
}

/// What must notice it.
enum By {
    /// The twin, with these operations (none: all), under a temporary file system.
    Twin(&'static str),
    /// The same on a disk, where asynchronous writes take time.
    OnDisk(&'static str),
    /// The same without the comparison in the gate, which keeps it closed for as long as it takes: the program's own
    /// ledgers must notice.
    Ledgers(&'static str),
    /// A test of the C interface.
    Capi(&'static str),
}

/// Makes the window between mark and landing wide, as a busy machine would.
const EARLY: &str = "tracker().mark_range(&pass, file.key, 0..TO_THE_END);\n    \
                     std::thread::sleep(std::time::Duration::from_millis(3));\n    let result = real();";

const CONTROLS: &[Control] = &[
    Control {
        rule: "P1",
        what: "writes are marked before they land",
        edits: &[
            ("src/capture/data.rs", "let result = real();", EARLY),
            ("src/capture/data.rs", "tracker().mark_range(&pass, file.key, range);", "let _ = range;"),
        ],
        shown_by: By::Twin("pwrite,pwrite64,write,open"),
    },
    Control {
        rule: "P2",
        what: "marks are taken away after the source was read",
        edits: &[(
            "src/engine/visit.rs",
            "missing.ranges.clear();\n        let now",
            "missing.ranges.clear();\n        file.entry.take_marks();\n        file.entry.take_tail();\n        \
             file.entry.take_ranges(0..u64::MAX, &mut |_| true);\n        let now",
        )],
        shown_by: By::Twin("pwrite,pwrite64,write,open"),
    },
    Control {
        rule: "P4",
        what: "an attempt at the gate that was given up does not put its marks back",
        edits: &[(
            "src/engine/hold.rs",
            "self.tracker.put_back(entry, Some(range), marks);\n        }\n        // Those",
            "let _ = (entry, range, marks);\n        }\n        // Those",
        )],
        shown_by: By::Twin(""),
    },
    Control {
        rule: "P6",
        what: "creation and truncation to nothing mark no inode",
        edits: &[
            ("src/tracker/mod.rs", "Kind::File => entry.mark_range(0..u64::MAX),", "Kind::File => {}"),
            ("src/tracker/mod.rs", "Marks::BORN | Marks::ATTRIBUTES | Marks::XATTRS", "Marks::empty()"),
        ],
        shown_by: By::Twin("open,open64,creat,unlink,write,pwrite"),
    },
    Control {
        rule: "P8",
        what: "a change of size marks nothing",
        edits: &[(
            "src/capture/size.rs",
            "tracker().mark_range(&pass, file.key, from(length));",
            "let _ = &file;",
        )],
        shown_by: By::Twin("ftruncate,ftruncate64,open"),
    },
    Control {
        rule: "P9",
        what: "names are never marked",
        edits: &[(
            "src/tracker/mod.rs",
            "self.mark(inside, directory, Marks::NAMES | Marks::ATTRIBUTES);",
            "let _ = (inside, directory);",
        )],
        shown_by: By::Twin("rename,link,mkdir,open,unlink"),
    },
    Control {
        rule: "P11",
        what: "asynchronous writes are marked at submission, not when they complete",
        edits: &[
            (
                "src/capture/asynchronous.rs",
                ".and_then(|mut stream| stream.enter(request as u64, target.as_ref()));",
                ".map(|_| target.iter().for_each(marker(pass)));",
            ),
            (
                "src/capture/asynchronous.rs",
                "let gone = OLD_UNTIL",
                "if uring::is_settled() {\n        return;\n    }\n    let gone = OLD_UNTIL",
            ),
        ],
        shown_by: By::Twin("io_submit,io_getevents"),
    },
    Control {
        rule: "P14",
        what: "the gate does not wait for what is in flight",
        edits: &[("src/engine/hold.rs", "while watcher.reap() != 0 {", "while watcher.reap() == u32::MAX {")],
        shown_by: By::OnDisk("io_submit,io_getevents,io_uring_submit,io_uring_peek_batch_cqe"),
    },
    Control {
        rule: "P15",
        what: "copying begins while calls from before capture are under way",
        edits: &[(
            "src/capture/grace.rs",
            "let Some((&thread, suspect)) = suspects.first_key_value() else { return Ok(()) };",
            "let Some((&thread, suspect)) = suspects.first_key_value().filter(|_| false) else { return Ok(()) };",
        )],
        shown_by: By::Capi("data::a_call_that_began_before_the_backup"),
    },
    Control {
        rule: "P18",
        what: "the engine does not look whether a waiter has opened the gate",
        edits: &[
            (
                "src/engine/hold.rs",
                "if !self.tracker.gate().turn_off(self.closure) {",
                "if !self.tracker.gate().turn_off(self.closure) && false {",
            ),
            (
                "src/engine/hold.rs",
                "if self.tracker.gate().holds(closure) { Ok(()) } else { Err(Missed::Late) }",
                "let _ = closure;\n        std::thread::sleep(std::time::Duration::from_millis(50));\n        Ok(())",
            ),
        ],
        shown_by: By::Ledgers("pwrite,pwrite64,write,open"),
    },
    Control {
        rule: "P20",
        what: "the gate does not wait for those inside",
        edits: &[("src/engine/hold.rs", "while !gate.is_drained() {", "while false && !gate.is_drained() {")],
        shown_by: By::Twin("pwrite,pwrite64,write,open"),
    },
];

/// The subcommand. Last line: how many were noticed.
pub fn run(args: &[String]) -> Result<ExitCode, Failure> {
    let mut flags = Flags::new(args);
    let only: Option<String> = flags.value("--rule", "a rule, such as P1")?;
    let rounds: u32 = flags.value("--rounds", "a number of rounds")?.unwrap_or(40);
    flags.end()?;
    Ok(break_rules(only.as_deref(), rounds)?)
}

fn break_rules(only: Option<&str>, rounds: u32) -> Result<ExitCode> {
    needs::install(&needs::TWIN)?;
    let place = Place::make()?;
    let mut unnoticed = 0;
    let chosen = CONTROLS.iter().filter(|control| only.is_none_or(|rule| rule == control.rule));
    let mut count = 0;
    for control in chosen {
        count += 1;
        place.copy_sources()?;
        // The same rounds must be good while nothing is broken: what is noticed then is what was broken.
        let (library, whole) = (place.build()?, place.test(control, rounds.min(5))?);
        if let Noticed::Yes(line) = whole {
            bail!("with nothing broken, the rounds of {} fail: {line} ({})", control.rule, library.display());
        }
        place.sabotage(control)?;
        place.build()?;
        let begin = Instant::now();
        match place.test(control, rounds)? {
            Noticed::Yes(line) => {
                println!(
                    "{}: {}: noticed in {:.1} s: {line}",
                    control.rule,
                    control.what,
                    begin.elapsed().as_secs_f64()
                );
            }
            Noticed::No => {
                unnoticed += 1;
                println!("{}: {}: NOT NOTICED", control.rule, control.what);
            }
        }
    }
    println!("controls: {count} rules broken, {unnoticed} not noticed");
    Ok(if unnoticed == 0 && count > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

enum Noticed {
    Yes(String),
    No,
}

/// A copy of the sources with builds of its own.
struct Place {
    tree: PathBuf,
    target: PathBuf,
    /// Names and contents of all sources, as they were at the start.
    sources: Vec<(String, Vec<u8>)>,
}

impl Place {
    fn make() -> Result<Place> {
        let below = paths::workspace().join("target").join("controls");
        let root = paths::workspace();
        let list = sh::output(
            sh::cmd("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
                .current_dir(&root),
        )?;
        let names = list.split('\0').filter(|name| !name.is_empty());
        let sources =
            names.filter_map(|name| Some((name.to_owned(), fs::read(root.join(name)).ok()?))).collect();
        Ok(Place { tree: below.join("tree"), target: below.join("target"), sources })
    }

    /// Files that are the same already keep their times.
    fn copy_sources(&self) -> Result<()> {
        for (name, content) in &self.sources {
            let to = self.tree.join(name);
            if fs::read(&to).is_ok_and(|known| known == *content) {
                continue;
            }
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&to, content).with_context(|| format!("cannot write {}", to.display()))?;
        }
        Ok(())
    }

    fn sabotage(&self, control: &Control) -> Result<()> {
        for (file, find, replace) in control.edits {
            let path = self.tree.join(file);
            let content = fs::read_to_string(&path)?;
            if !content.contains(find) {
                bail!("{}: {file} has no {find:?} any more: the control is out of date", control.rule);
            }
            fs::write(&path, content.replace(find, replace))?;
        }
        Ok(())
    }

    fn cargo(&self, words: &[&str]) -> Command {
        let mut cargo = sh::cargo(words);
        cargo.current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.target).env("RUSTFLAGS", "-Awarnings");
        cargo
    }

    fn build(&self) -> Result<PathBuf> {
        sh::run(&mut self.cargo(&[
            "build",
            "--quiet",
            "--package",
            "tokudb_backup",
            "--package",
            "twin",
            "--package",
            "twin_late",
        ]))?;
        Ok(self.target.join("debug").join("libtokudb_backup.so"))
    }

    fn test(&self, control: &Control, rounds: u32) -> Result<Noticed> {
        let memory = memory().unwrap_or_else(|| self.target.clone());
        match control.shown_by {
            By::Twin(ops) => self.twin(ops, rounds, &memory, true),
            By::OnDisk(ops) => self.twin(ops, rounds, &self.target, true),
            By::Ledgers(ops) => self.twin(ops, rounds, &memory, false),
            By::Capi(name) => self.capi(name),
        }
    }

    fn twin(&self, ops: &str, rounds: u32, directory: &Path, identity: bool) -> Result<Noticed> {
        let library = self.target.join("debug").join("libtokudb_backup.so");
        let mut twin = Command::new(self.target.join("debug").join("twin"));
        twin.arg("--lib").arg(library).arg("--dir").arg(directory);
        twin.args(["--rounds", &rounds.to_string(), "--fail-fast", "--storm"]);
        twin.env("TOKUDB_BACKUP_TEST_IDENTITY", if identity { "1" } else { "0" });
        if !ops.is_empty() {
            twin.args(["--ops", ops]);
        }
        let output = twin.output().context("cannot start twin")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // A backup that found no moment to end (110) says nothing about what it saw.
        let line = text.lines().find(|line| line.contains("FAILED") && !line.contains("returned 110"));
        Ok(line.map_or(Noticed::No, |line| Noticed::Yes(line.chars().take(200).collect())))
    }

    fn capi(&self, name: &str) -> Result<Noticed> {
        let mut test =
            self.cargo(&["test", "--quiet", "--package", "twin", "--test", "capi", "--", "--exact", name]);
        let output = test.output().context("cannot start cargo")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            if !text.contains("1 passed") {
                bail!("there is no test {name} of the C interface");
            }
            return Ok(Noticed::No);
        }
        Ok(Noticed::Yes(format!("{name} fails")))
    }
}

/// A directory in memory: faster, and windows are narrower than on a disk.
fn memory() -> Option<PathBuf> {
    Some(PathBuf::from("/dev/shm")).filter(|path| Path::new(path).is_dir())
}
