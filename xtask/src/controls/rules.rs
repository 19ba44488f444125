//! How each rule is broken, and what must notice it.

use super::{By, Control};

/// Makes the window between mark and landing wide, as a busy machine would.
const EARLY: &str = "tracker().mark_range(&pass, file.key, 0..TO_THE_END);\n    \
                     std::thread::sleep(std::time::Duration::from_millis(3));\n    let result = real();";

/// By number of the rule.
pub const CONTROLS: &[Control] = &[
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
        rule: "P4",
        what: "a directory that a pass does not list once more keeps its marks and loses its place in the queue",
        edits: &[(
            "src/engine/reconcile.rs",
            "                self.tracker.put_back(entry, None, Marks::empty());\n",
            "                let _ = entry;\n",
        )],
        shown_by: By::Twin("rename,link,mkdir,open,unlink"),
    },
    Control {
        rule: "P5",
        what: "a number is taken to be the file that it was first",
        edits: &[(
            "src/capture/hook.rs",
            "    stat(fd).filter(|stat| stat.is(libc::S_IFREG) && stat.is_watched())",
            "    static KNOWN: std::sync::Mutex<[Option<Stat>; 4096]> = std::sync::Mutex::new([None; 4096]);\n    let mut known = KNOWN.lock().ok()?;\n    let known = known.get_mut(fd as usize)?;\n    if known.is_none() {\n        *known = stat(fd);\n    }\n    known.filter(|stat| stat.is(libc::S_IFREG) && stat.is_watched())",
        )],
        shown_by: By::Twin("pwrite,pwrite64,write,open"),
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
        rule: "P7",
        what: "a write with an offset is taken to go there, O_APPEND or not",
        edits: &[(
            "src/capture/data.rs",
            "    flags & RWF_NOAPPEND == 0 && open >= 0 && open & libc::O_APPEND != 0",
            "    let _ = open;\n    false",
        )],
        shown_by: By::Twin("pwrite,pwrite64,open"),
    },
    Control {
        rule: "P7",
        what: "a write is taken to end at the position after it",
        edits: &[("src/capture/data.rs", "=> before..after,", "=> after.saturating_sub(landed)..after,")],
        shown_by: By::Capi("rules::writes_at_a_position_that_others_move"),
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
        rule: "P9",
        what: "names are never marked",
        edits: &[(
            "src/tracker/mod.rs",
            "self.mark(inside, directory, Marks::NAMES | Marks::ATTRIBUTES);",
            "let _ = (inside, directory);",
        )],
        shown_by: By::Capi("extremes::renames_without_end_are_all_seen"),
    },
    Control {
        rule: "P9",
        what: "names are never marked",
        edits: &[(
            "src/tracker/mod.rs",
            "self.mark(inside, directory, Marks::NAMES | Marks::ATTRIBUTES);",
            "let _ = (inside, directory);",
        )],
        shown_by: By::Capi("rules::a_rename_is_seen_by_its_mark"),
    },
    Control {
        rule: "P10",
        what: "a thread that is inside enters once more",
        edits: &[(
            "src/tracker/slots.rs",
            "if slot.is_some_and(|slot| slot.sequence",
            "if false && slot.is_some_and(|slot| slot.sequence",
        )],
        shown_by: By::Unit("tracker::tests::whoever_is_inside_passes_straight_through"),
    },
    Control {
        rule: "P10",
        what: "a hook allocates",
        edits: &[(
            "src/capture/hook.rs",
            "Some((file, tracker().enter(call)?))",
            "drop(std::hint::black_box(Box::new(call)));\n        Some((file, tracker().enter(call)?))",
        )],
        shown_by: By::Twin("pwrite,pwrite64,write,open"),
    },
    Control {
        rule: "P10",
        what: "hooks leave errno as their own calls do",
        edits: &[(
            "src/capture/hook.rs",
            "    set_errno(kept);\n    result",
            "    let _ = kept;\n    result",
        )],
        shown_by: By::Capi("rules::errno_is_the_calls_own"),
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
        rule: "P12",
        what: "who waits for completions is inside meanwhile",
        edits: &[(
            "src/capture/asynchronous.rs",
            "    drop(keep_errno(|| tracker().pin(call)));\n    let settled = uring::settled();\n    let result = real();",
            "    let inside = keep_errno(|| tracker().enter(call));\n    let settled = uring::settled();\n    let result = real();\n    drop(inside);",
        )],
        shown_by: By::Capi("rules::a_reaper_that_waits_holds_nobody_up"),
    },
    Control {
        rule: "P12",
        what: "requests that the kernel has not taken stay entered",
        edits: &[(
            "src/capture/asynchronous.rs",
            "requests.iter().skip(taken.max(0) as usize)",
            "requests.iter().skip(taken.max(count) as usize)",
        )],
        shown_by: By::Capi("rules::what_was_not_submitted_is_not_waited_for"),
    },
    Control {
        rule: "P13",
        what: "a ring is read from where the program has left it",
        edits: &[(
            "src/capture/asynchronous.rs",
            "let mut cursor = stream.cursor() % ring.count;",
            "let mut cursor = ring.head.load(Ordering::Acquire) % ring.count;",
        )],
        shown_by: By::Capi("rules::what_was_reaped_is_in_the_image"),
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
        rule: "P16",
        what: "slots are not given back",
        edits: &[(
            "src/capture/mod.rs",
            "let _ = object.store(|slot| slot.is_ours().then(|| slot.hook.real()));",
            "let _ = object;",
        )],
        shown_by: By::Capi("rules::all_slots_are_given_back"),
    },
    Control {
        rule: "P16",
        what: "what dlopen brings is intercepted at the next pass only",
        edits: &[(
            "src/capture/loader.rs",
            "if super::intercept_new().is_err() {",
            "if false && super::intercept_new().is_err() {",
        )],
        shown_by: By::Twin("dlopen,open,write"),
    },
    Control {
        rule: "P17",
        what: "capture goes on in a forked child",
        edits: &[("src/capture/fork.rs", "    tracker().gate().abandon();\n}", "    let _ = tracker();\n}")],
        shown_by: By::Unit("capture::fork::tests::a_child_sees_nothing"),
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
        shown_by: By::Ledgers("ledger,pwrite,write,open"),
    },
    Control {
        rule: "P19",
        what: "files are read after the instant",
        edits: &[
            (
                "src/engine/hold.rs",
                "self.read_marked(arena, entry)?;",
                "let _ = gate.turn_off(closure);\n                \
                 std::thread::sleep(std::time::Duration::from_millis(1));\n                \
                 self.read_marked(arena, entry)?;",
            ),
            (
                "src/engine/hold.rs",
                "if self.tracker.gate().holds(closure) { Ok(()) } else { Err(Missed::Late) }",
                "let _ = closure;\n        Ok(())",
            ),
            ("src/engine/hold.rs", "if !self.tracker.gate().turn_off(self.closure) {", "if false {"),
        ],
        shown_by: By::Ledgers("ledger,pwrite,write,open"),
    },
    Control {
        rule: "P20",
        what: "the gate does not wait for those inside",
        edits: &[("src/engine/hold.rs", "while !gate.is_drained() {", "while false && !gate.is_drained() {")],
        shown_by: By::Twin("pwrite,pwrite64,write,open"),
    },
    Control {
        rule: "P21",
        what: "the thread that takes the backup is not looked at",
        edits: &[
            (
                "src/backup.rs",
                "/// One backup at a time; set until",
                "pub(crate) static OURS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);\n/// One backup at a time; set until",
            ),
            (
                "src/backup.rs",
                "    let (result, stopping) = attend(&control, caller);",
                "    OURS.store(unsafe { libc::pthread_self() } as usize, Ordering::SeqCst);\n    let (result, stopping) = attend(&control, caller);",
            ),
            (
                "src/capture/hook.rs",
                "    tracker().gate().is_on()",
                "    tracker().gate().is_on()\n        && crate::backup::OURS.load(std::sync::atomic::Ordering::SeqCst)\n            != unsafe { libc::pthread_self() } as usize",
            ),
        ],
        shown_by: By::Capi("rules::what_the_calling_thread_writes_is_seen"),
    },
    Control {
        rule: "P21",
        what: "threads of the library take signals",
        edits: &[(
            "src/engine/threads.rs",
            "libc::sigfillset(&raw mut all);",
            "libc::sigemptyset(&raw mut all);",
        )],
        shown_by: By::Capi("rules::threads_of_the_library_take_no_signal"),
    },
    Control {
        rule: "P22",
        what: "writers wait while the image is written",
        edits: &[
            (
                "src/tracker/mod.rs",
                "/// Why the running backup cannot be exact, found",
                "pub(crate) static VOLUME: Mutex<()> = Mutex::new(());\n/// Why the running backup cannot be exact, found",
            ),
            (
                "src/engine/visit.rs",
                "                    writer.write(buffer.get(..got).unwrap_or(&[]), from)?;",
                "                    let volume = crate::tracker::VOLUME.lock();\n                    writer.write(buffer.get(..got).unwrap_or(&[]), from)?;\n                    drop(volume);",
            ),
            (
                "src/capture/hook.rs",
                "        let file = regular(fd)?;\n",
                "        let file = regular(fd)?;\n        drop(crate::tracker::VOLUME.lock());\n",
            ),
        ],
        shown_by: By::Faults("hanging"),
    },
    Control {
        rule: "P23",
        what: "files of the source are opened for writing, too",
        edits: &[(
            "src/engine/source.rs",
            "let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK",
            "let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK",
        )],
        shown_by: By::Capi("rules::a_source_that_cannot_be_written"),
    },
    Control {
        rule: "P24",
        what: "streams and mappings are not noted",
        edits: &[(
            "src/tracker/mod.rs",
            "if !self.unseen.add(key, how, fd) {",
            "if false && !self.unseen.add(key, how, fd) {",
        )],
        shown_by: By::Capi("unseen::a_large_mapping_is_refused_by_name"),
    },
    Control {
        rule: "P24",
        what: "aio_write is not refused",
        edits: &[(
            "src/capture/asynchronous.rs",
            "tracker().set_fault(Fault::PosixAio);",
            "let _ = Fault::PosixAio;",
        )],
        shown_by: By::Capi("unseen::posix_aio_is_refused"),
    },
    Control {
        rule: "P25",
        what: "size and mtime are not compared",
        edits: &[(
            "src/engine/unseen.rs",
            "                moved.push(file.clone());",
            "                if false {\n                    moved.push(file.clone());\n                }",
        )],
        shown_by: By::Capi("rules::what_another_process_writes_is_copied_again"),
    },
    Control {
        rule: "P28",
        what: "who ends a backup waits for its destination",
        edits: &[
            (
                "src/backup.rs",
                "const LEAVE: Duration = Duration::from_millis(400);",
                "const LEAVE: Duration = Duration::from_secs(8000);",
            ),
            (
                "src/backup.rs",
                "const PATIENCE: Duration = Duration::from_millis(800);",
                "const PATIENCE: Duration = Duration::from_secs(8000);",
            ),
        ],
        shown_by: By::Faults("hanging"),
    },
];
