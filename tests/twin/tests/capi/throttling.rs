//! tokubackup_throttle_backup.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::scene::{Given, Scene, library, open, run};

/// A bound on all files together: the predecessor counted each file on its own.
#[test]
fn many_files_share_one_rate() {
    let scene = Scene::new();
    for number in 0..20 {
        scene.file(&format!("file{number}"), &[1; 100_000]);
    }
    library().throttle(4_000_000);
    let begun = Instant::now();
    let outcome = scene.backup();
    let took = begun.elapsed();
    library().throttle(u64::MAX);
    outcome.ok();
    assert!(took >= Duration::from_millis(450), "2 MB at 4 MB/s took {took:?}");
    scene.same();
}

/// 0 pauses the copying, not the capture; another rate takes effect at once, from another thread.
#[test]
fn paused_and_let_go() {
    let scene = Scene::new();
    // Written over, never shorter: a file that is found empty is done without a byte.
    let file = open(&scene.file("file", &[1; 200_000]));
    library().throttle(0);
    let mut paused = 0;
    let outcome = run(
        &[(&scene.source(), &scene.image())],
        &mut Given {
            poll: Some(&mut |progress, text| {
                if text != "Preparing backup" && paused < 5 {
                    paused += 1;
                    assert!(progress < 1.0, "{text}");
                    file.write_all_at(&[paused as u8; 200_000], 0).unwrap();
                    if paused == 5 {
                        std::thread::spawn(|| library().throttle(u64::MAX)).join().unwrap();
                    }
                }
                0
            }),
            ..Given::default()
        },
    );
    library().throttle(u64::MAX);
    outcome.ok();
    assert!(paused >= 5);
    scene.same();
}

#[test]
fn a_paused_backup_can_be_ended() {
    let scene = Scene::new();
    scene.file("file", &[1; 200_000]);
    library().throttle(0);
    let begun = Instant::now();
    let mut polls = 0;
    let outcome = run(
        &[(&scene.source(), &scene.image())],
        &mut Given {
            poll: Some(&mut |_, _| {
                polls += 1;
                if polls == 4 { 42 } else { 0 }
            }),
            ..Given::default()
        },
    );
    library().throttle(u64::MAX);
    outcome.broken(42, &["User aborted backup"]);
    assert!(begun.elapsed() < Duration::from_secs(5));
}
