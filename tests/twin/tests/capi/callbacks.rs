//! When the callbacks are called, where, and with what.

use std::cell::Cell;
use std::ffi::c_int;
use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use twin::library::Callbacks;

use crate::scene::{Given, Scene, library, run};

#[test]
fn none_at_all() {
    let scene = Scene::new();
    scene.file("a/b", b"content");
    assert_eq!(library().backup(&[(&scene.source(), &scene.image())], Callbacks::default()), 0);
    scene.same();
}

#[test]
fn all_on_the_calling_thread_and_in_order() {
    let scene = Scene::new();
    scene.file("a", &[7; 1 << 20]);
    let here = std::thread::current().id();
    let is_here = || assert_eq!(std::thread::current().id(), here);
    let asked = Cell::new(0);
    let outcome = run(
        &[(&scene.source(), &scene.image())],
        &mut Given {
            poll: Some(&mut |_, _| {
                is_here();
                0
            }),
            exclude: Some(&mut |_| {
                is_here();
                asked.set(asked.get() + 1);
                false
            }),
            before_stop: Some(&mut is_here.clone()),
            after_stop: Some(&mut is_here.clone()),
        },
    )
    .ok();
    assert!(asked.get() >= 1);
    assert!(!outcome.polls.is_empty());
    scene.same();
}

#[test]
fn progress_goes_up_to_1_and_its_texts_can_be_read() {
    let scene = Scene::new();
    for index in 0..40 {
        scene.file(&format!("d{}/f{index}", index % 3), &vec![3; 100_000]);
    }
    library().throttle(8 << 20);
    let outcome = scene.backup();
    library().throttle(u64::MAX);
    let outcome = outcome.ok();
    assert_eq!(outcome.polls[0], (0.0, "Preparing backup".to_owned()));
    let mut last = 0.0;
    for (progress, text) in &outcome.polls {
        assert!((last..=1.0).contains(progress), "{progress} after {last}: {text}");
        last = *progress;
        assert!(text == "Preparing backup" || is_known(text, &scene), "{text}");
    }
    assert!(outcome.polls.iter().any(|(progress, _)| *progress > 0.0 && *progress < 1.0), "{outcome:?}");
    scene.same();
}

/// The forms that programs have learned to read.
fn is_known(text: &str, scene: &Scene) -> bool {
    fn number<'a>(text: &'a str, then: &str) -> Option<&'a str> {
        let (number, rest) = text.split_once(then)?;
        number.parse::<u64>().ok().map(|_| rest)
    }
    let parse = || {
        let rest = number(text.strip_prefix("Backup progress ")?, " bytes, ")?;
        let rest = number(rest, " files.  ")?;
        if let Some(rest) = rest.strip_prefix("Copying file: ") {
            let rest = number(number(rest, "/")?, " bytes done of ")?;
            let (from, to) = rest.strip_suffix('.')?.split_once(" to ")?;
            let name = Path::new(from).strip_prefix(scene.source()).ok()?;
            return (Path::new(to) == scene.image().join(name)).then_some(());
        }
        let name = number(rest, " more files known of. Copying file ")?;
        (name == "." || name.starts_with('/')).then_some(())
    };
    parse().is_some()
}

#[test]
fn what_poll_returns_comes_back() {
    for value in [1, 77, -5, c_int::MAX, c_int::MIN] {
        let scene = Scene::new();
        scene.file("a", &[7; 1 << 20]);
        let outcome = run(
            &[(&scene.source(), &scene.image())],
            &mut Given { poll: Some(&mut |_, _| value), ..Given::default() },
        );
        assert_eq!(outcome.polls.len(), 1, "once ended, it is not asked again: {outcome:?}");
        outcome.broken(value, &["User aborted backup"]);
    }
}

#[test]
fn ended_at_any_call_of_poll() {
    for at in 1..6 {
        let scene = Scene::new();
        scene.file("a", &[7; 3 << 20]);
        library().throttle(4 << 20);
        let mut count = 0;
        let mut poll = |_: f32, _: &str| {
            count += 1;
            if count == at { 1000 + at } else { 0 }
        };
        let outcome = run(
            &[(&scene.source(), &scene.image())],
            &mut Given { poll: Some(&mut poll), ..Given::default() },
        );
        library().throttle(u64::MAX);
        outcome.broken(1000 + at, &["User aborted backup"]);
        // And the next one is as if nothing had been.
        scene.clear_image();
        scene.backup().ok();
        scene.same();
    }
}

#[test]
fn written_before_the_end_is_in_and_written_after_it_is_not() {
    let scene = Scene::new();
    scene.file("file", b"old");
    run(
        &[(&scene.source(), &scene.image())],
        &mut Given {
            before_stop: Some(&mut || {
                scene.file("file", b"new");
                scene.file("directory/before", b"before");
            }),
            after_stop: Some(&mut || {
                scene.file("file", b"too late");
                scene.file("directory/after", b"after");
            }),
            ..Given::default()
        },
    )
    .ok();
    assert_eq!(scene.copy("file"), b"new");
    assert_eq!(scene.copy("directory/before"), b"before");
    assert!(!scene.image().join("directory/after").exists());
}

/// The predecessor called poll while it held the range that it copied: who wrote there waited for poll.
#[test]
fn nothing_is_held_while_a_callback_runs() {
    let scene = Scene::new();
    for name in ["a", "b", "c"] {
        scene.file(name, &[7; 1 << 20]);
    }
    let (ask, asked) = mpsc::channel::<u8>();
    let (answer, answered) = mpsc::channel::<()>();
    let rounds = std::thread::scope(|scope| {
        let scene = &scene;
        scope.spawn(move || {
            for stamp in asked {
                for name in ["a", "b", "c"] {
                    fs::write(scene.at(name), [stamp; 1 << 20]).unwrap();
                }
                fs::rename(scene.at("a"), scene.at("d")).unwrap();
                fs::rename(scene.at("d"), scene.at("a")).unwrap();
                fs::create_dir(scene.at("e")).unwrap();
                fs::remove_dir(scene.at("e")).unwrap();
                answer.send(()).unwrap();
            }
        });
        let (count, over) = (Cell::new(0), Cell::new(false));
        let write = || {
            if over.get() {
                return;
            }
            count.set(count.get() + 1);
            ask.send(count.get()).unwrap();
            answered.recv_timeout(Duration::from_secs(20)).expect("a writer waits for the callback");
        };
        run(
            &[(&scene.source(), &scene.image())],
            &mut Given {
                poll: Some(&mut |_, _| {
                    write();
                    0
                }),
                exclude: Some(&mut |_| {
                    write();
                    false
                }),
                // What is written after it may be after the instant.
                before_stop: Some(&mut || {
                    write();
                    over.set(true);
                }),
                after_stop: None,
            },
        )
        .ok();
        drop(ask);
        count.get()
    });
    assert!(rounds >= 3, "{rounds}");
    scene.same();
}

/// Callbacks may do what the program does elsewhere.
#[test]
fn callbacks_may_open_load_fork_and_throttle() {
    let scene = Scene::new();
    scene.file("a", b"a");
    scene.hot(|| {
        library().throttle(1 << 30);
        library().throttle(u64::MAX);
        let status = std::process::Command::new("/bin/sh").args(["-c", "exit 7"]).status().unwrap();
        assert_eq!(status.code(), Some(7));
        // SAFETY: a library of the system, loaded and closed.
        unsafe {
            let handle = libc::dlopen(c"libm.so.6".as_ptr(), libc::RTLD_NOW);
            assert!(!handle.is_null());
            libc::dlclose(handle);
        }
        scene.file("b", b"b");
    });
}

#[test]
fn several_sources_in_one_backup() {
    let scene = Scene::new();
    let (source2, image2) = (scene.base.join("other"), scene.base.join("other-image"));
    fs::create_dir(&source2).unwrap();
    fs::create_dir(&image2).unwrap();
    scene.file("a", b"a");
    fs::write(source2.join("b"), b"b").unwrap();
    // One file with a name in each.
    scene.file("shared", b"shared");
    fs::hard_link(scene.at("shared"), source2.join("shared")).unwrap();
    run(
        &[(&scene.source(), &scene.image()), (&source2, &image2)],
        &mut Given {
            before_stop: Some(&mut || {
                fs::rename(scene.at("a"), source2.join("moved")).unwrap();
                fs::write(scene.at("shared"), b"changed in both").unwrap();
                fs::write(source2.join("b"), b"changed").unwrap();
            }),
            ..Given::default()
        },
    )
    .ok();
    scene.same();
    let differences = twin::compare::differences(&source2, &image2, &|_| false, 9);
    assert!(differences.is_empty(), "{differences:?}");
    assert_eq!(fs::read(image2.join("moved")).unwrap(), b"a");
    assert_eq!(fs::read(image2.join("shared")).unwrap(), b"changed in both");
}

#[test]
fn the_version_is_cargos() {
    assert_eq!(library().version(), env!("CARGO_PKG_VERSION"));
}

/// Nothing is left behind: no descriptor, no thread.
#[test]
fn nothing_is_left_behind() {
    let scene = Scene::new();
    scene.file("a/b/c", b"c");
    scene.backup().ok();
    let mine = |directory: &str, prefix: &Path| {
        fs::read_dir(directory)
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .filter(|target| target.starts_with(prefix))
            .count()
    };
    assert_eq!(mine("/proc/self/fd", &scene.base), 0);
    let ours = || {
        fs::read_dir("/proc/self/task").unwrap().any(|entry| {
            let name = entry.and_then(|entry| fs::read_to_string(entry.path().join("comm")));
            name.is_ok_and(|name| name.starts_with("hotbackup"))
        })
    };
    // They have nothing more to do, but may still be on their way out.
    let patience = Instant::now() + Duration::from_secs(20);
    while ours() {
        assert!(Instant::now() < patience, "a thread of the library is left");
        std::thread::yield_now();
    }
    // The image has nothing but the source in it, though it has been made in steps.
    scene.same();
}
