use std::sync::atomic::AtomicU64;

use super::*;

const SECOND: u64 = 1_000_000_000;
const MIB: u64 = 1 << 20;

/// A clock that is set by hand; nothing waits on it.
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn wait(&self, _: &AtomicU32, _: u32, _: u64) {
        unreachable!("progress never waits")
    }
    fn wake(&self, _: &AtomicU32) {
        unreachable!("progress never wakes")
    }
}

impl Progress<Hand> {
    fn at(nanos: u64) -> Self {
        Progress::new(Hand(AtomicU64::new(nanos)))
    }
    fn pass(&self, nanos: u64) {
        self.clock.0.fetch_add(nanos, Ordering::Relaxed);
    }
    fn line(&self) -> String {
        state_line(&Snapshot { paused: false, ..self.snapshot() })
    }
}

#[test]
fn a_backup_in_words() {
    let progress = Progress::at(100 * SECOND);
    assert_eq!(progress.line(), "no backup runs");
    progress.begin();
    assert_eq!(progress.line(), "backup: preparing");
    progress.listed(3, 100 * MIB);
    progress.set_phase(Phase::Copying);
    progress.begin_pass(0);
    assert_eq!(progress.line(), "backup: 0% copied, 0 B of 100.0 MiB, 0 of 3 files, 0 B/s, 100.0 MiB left");

    let file = progress.file(Path::new("/d/t1.ibd"), 40 * MIB);
    for _ in 0..20 {
        progress.pass(SECOND / 10);
        file.copied(MIB);
    }
    assert_eq!(
        progress.line(),
        "backup: 20% copied, 20.0 MiB of 100.0 MiB, 0 of 3 files, 10.0 MiB/s, 80.0 MiB left (about 8 s): \
         /d/t1.ibd (20.0 MiB of 40.0 MiB)"
    );
    file.copied(20 * MIB);
    file.finish();
    let snapshot = Snapshot { paused: true, ..progress.snapshot() };
    let line = "backup: paused (throttle 0) at 40%, 40.0 MiB of 100.0 MiB, 1 of 3 files";
    assert_eq!(state_line(&snapshot), line);

    let file = progress.file(Path::new("/d/t2.ibd"), 60 * MIB);
    file.copied(60 * MIB);
    assert!(progress.line().starts_with("backup: 99% copied, 100.0 MiB of 100.0 MiB, 1 of 3 files"));
    file.finish();
    progress.file(Path::new("/d/empty"), 0).finish();

    progress.begin_pass(28 * MIB);
    progress.set_phase(Phase::Converging);
    progress.pass(10 * SECOND);
    progress.copied_again(12 * MIB);
    progress.pass(SECOND);
    let line = "backup: 99%, pass 2, copying again what changed: 12.0 MiB of 28.0 MiB, ";
    assert!(progress.line().starts_with(line), "{}", progress.line());
    progress.set_phase(Phase::Gate);
    assert_eq!(progress.line(), "backup: 99%, waiting for a moment without writes to end the capture");
    progress.set_phase(Phase::Finishing);
    assert_eq!(progress.line(), "backup: 99%, making the copy durable");
    progress.end(0, "");
    assert_eq!(progress.line(), "no backup runs");
    let snapshot = progress.snapshot();
    assert_eq!((snapshot.files_done, snapshot.bytes_done, snapshot.passes), (3, 100 * MIB, 2));
    progress.pass(SECOND);
    assert_eq!(progress.snapshot().elapsed_micros, 13_000_000, "the time stands still after the end");
}

#[test]
fn never_more_than_there_is() {
    let progress = Progress::at(0);
    progress.begin();
    progress.listed(3, 30);
    progress.set_phase(Phase::Copying);
    // One grows while it is copied, one shrinks, one vanishes.
    let file = progress.file(Path::new("/grows"), 10);
    for _ in 0..5 {
        file.copied(7);
        let snapshot = progress.snapshot();
        assert!(snapshot.bytes_done <= snapshot.bytes_total, "{snapshot:?}");
        let (_, done, size) = snapshot.file.unwrap();
        assert!(done <= size);
    }
    file.finish();
    assert_eq!((progress.snapshot().bytes_done, progress.snapshot().bytes_total), (35, 55));
    let file = progress.file(Path::new("/shrinks"), 10);
    file.copied(4);
    file.finish();
    drop(progress.file(Path::new("/vanishes"), 10));
    let snapshot = progress.snapshot();
    assert_eq!((snapshot.bytes_done, snapshot.bytes_total), (39, 39));
    assert_eq!((snapshot.files_done, snapshot.files_total), (2, 2));
    assert_eq!(snapshot.percent(), 99, "not all is done while it runs");
    assert_eq!(snapshot.file, None);
}

#[test]
fn the_rate_is_that_of_the_last_two_seconds() {
    let progress = Progress::at(1000 * SECOND);
    progress.begin();
    progress.listed(1, 1 << 40);
    let file = progress.file(Path::new("/f"), 1 << 40);
    let mut seen = Vec::new();
    for per_tenth in [MIB, 20 * MIB, 0] {
        for _ in 0..40 {
            progress.pass(SECOND / 10);
            file.copied(per_tenth);
        }
        seen.push(progress.snapshot().bytes_per_second / MIB);
    }
    assert_eq!(seen.pop(), Some(0));
    assert!((190..=210).contains(&seen[1]) && (9..=11).contains(&seen[0]), "{seen:?} MiB/s");
    // A bucket that is used again after its ring went round holds nothing old.
    progress.pass(32 * SECOND / 8);
    file.copied(8 * MIB);
    assert!(progress.snapshot().bytes_per_second <= 4 * MIB);
}

#[test]
fn a_long_copy_is_shown_when_the_short_ones_beside_it_are_done() {
    let progress = Progress::at(0);
    progress.begin();
    let long = progress.file(Path::new("/long"), 100);
    long.copied(1);
    let short = progress.file(Path::new("/short"), 5);
    long.copied(1);
    assert_eq!(progress.snapshot().file.unwrap().0, Path::new("/short"));
    short.finish();
    assert_eq!(progress.snapshot().file, None);
    long.copied(1);
    assert_eq!(progress.snapshot().file.unwrap(), ("/long".into(), 3, 100));
}

#[test]
fn looking_does_not_wait_for_a_copier() {
    let progress = Progress::at(0);
    progress.begin();
    let file = progress.file(Path::new("/f"), 9);
    file.copied(3);
    let held = progress.shown.lock().unwrap();
    let snapshot = progress.snapshot();
    assert_eq!((snapshot.file, snapshot.bytes_done), (None, 3));
    drop(held);
}

#[test]
fn lines_are_short_whatever_they_say() {
    let huge = Snapshot {
        bytes_total: u64::MAX,
        bytes_done: u64::MAX - 1,
        files_total: u64::MAX,
        files_done: u64::MAX,
        passes: u32::MAX,
        pass_bytes_total: u64::MAX,
        pass_bytes_done: u64::MAX,
        bytes_per_second: 1,
        file: Some((PathBuf::from("\u{1F600}/".repeat(1000)), u64::MAX, u64::MAX)),
        ..Snapshot::default()
    };
    for phase in PHASES {
        for paused in [false, true] {
            let line = state_line(&Snapshot { phase, paused, ..huge.clone() });
            assert!(line.len() <= 500, "{} bytes: {line}", line.len());
            assert!(!line.contains("100%"), "{line}");
        }
    }
}

#[test]
fn the_last_run_is_remembered() {
    let progress = Progress::at(0);
    assert_eq!(progress.last_run(), None);
    progress.begin();
    assert_eq!(progress.last_run(), None);
    progress.pass(3 * SECOND);
    progress.end(28, "cannot write /b/x: No space left on device (28)");
    let last = progress.last_run().unwrap();
    assert_eq!((last.duration, last.errno), (Duration::from_secs(3), 28));
    assert!(last.message.contains("/b/x") && last.started <= last.ended && !last.started.is_zero());
    progress.begin();
    assert_eq!(progress.last_run(), Some(last.clone()), "the one before is shown until the new one ends");
    assert!(progress.started() >= last.ended);
    progress.end(0, "");
    let last = progress.last_run().unwrap();
    assert_eq!((last.errno, last.message.as_str()), (0, ""));
    assert_eq!(progress.snapshot().phase.name(), "idle");
}

#[test]
fn many_copiers_count_exactly() {
    let progress = Progress::new(Monotonic);
    progress.begin();
    progress.listed(400, 400 * 1000);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    let file = progress.file(Path::new("/f"), 1000);
                    for _ in 0..100 {
                        file.copied(11);
                    }
                    file.finish();
                }
            });
        }
        for _ in 0..1000 {
            let snapshot = progress.snapshot();
            assert!(
                snapshot.bytes_done <= snapshot.bytes_total && snapshot.files_done <= snapshot.files_total
            );
        }
    });
    let snapshot = progress.snapshot();
    assert_eq!((snapshot.bytes_done, snapshot.bytes_total), (440_000, 440_000));
    assert_eq!((snapshot.files_done, snapshot.files_total), (400, 400));
}
