//! What exclude_copy_fun leaves out.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use twin::compare;

use crate::scene::{Given, Scene, open, run};

/// It is asked for paths of the source only; the predecessor asked for paths of the image too, and stopped preparing
/// at the first open file that was left out.
#[test]
fn files_and_directories() {
    let scene = Scene::new();
    for name in ["keep", "skip", "d/keep", "d/skip", "skipped/inside", "z/skip"] {
        scene.file(name, name.as_bytes());
    }
    let (skipped, kept) = (open(&scene.at("d/skip")), open(&scene.at("z/skip")));
    let asked = RefCell::new(BTreeSet::new());
    let is_left_out =
        |name: &Path| name == Path::new("skip") || name.starts_with("skipped") || name == Path::new("d/skip");
    run(
        &[(&scene.source(), &scene.image())],
        &mut Given {
            exclude: Some(&mut |path| {
                asked.borrow_mut().insert(path.to_owned());
                is_left_out(path.strip_prefix(scene.source()).unwrap())
            }),
            before_stop: Some(&mut || {
                skipped.write_all_at(b"changed", 0).unwrap();
                kept.write_all_at(b"CHANGED", 0).unwrap();
                scene.file("skipped/new", b"new");
                scene.file("d/new", b"new");
            }),
            ..Given::default()
        },
    )
    .ok();
    let differences = compare::differences(&scene.source(), &scene.image(), &is_left_out, 9);
    assert!(differences.is_empty(), "{differences:?}");
    let asked = asked.into_inner();
    for name in ["keep", "skip", "d/skip", "z/skip", "skipped", "d/new"] {
        assert!(asked.contains(&scene.at(name)), "{name} was not asked for: {asked:?}");
    }
    let wrong: Vec<&PathBuf> = asked.iter().filter(|path| !path.starts_with(scene.source())).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// What a name is decides, at each moment: a file may come and go by being renamed.
#[test]
fn renamed_in_and_out() {
    let scene = Scene::new();
    scene.file("a.skip", &[1; 40_000]);
    scene.file("b", &[2; 40_000]);
    scene.file("c", b"c");
    let is_left_out = |name: &Path| name.extension().is_some_and(|extension| extension == "skip");
    run(
        &[(&scene.source(), &scene.image())],
        &mut Given {
            exclude: Some(&mut |path| is_left_out(path)),
            before_stop: Some(&mut || {
                open(&scene.at("a.skip")).write_all_at(b"x", 39_999).unwrap();
                fs::rename(scene.at("a.skip"), scene.at("a")).unwrap();
                fs::rename(scene.at("b"), scene.at("b.skip")).unwrap();
                fs::hard_link(scene.at("c"), scene.at("c.skip")).unwrap();
                open(&scene.at("c.skip")).write_all_at(b"C", 0).unwrap();
            }),
            ..Given::default()
        },
    )
    .ok();
    assert_eq!(scene.copy("a").len(), 40_000);
    assert_eq!(scene.copy("a")[39_999], b'x');
    assert_eq!(scene.copy("c"), b"C");
    for name in ["a.skip", "b", "b.skip", "c.skip"] {
        assert!(!scene.image().join(name).exists(), "{name}");
    }
}

/// New names appear all the time, so that each try at the gate finds some: the caller is asked for these after it.
#[test]
fn names_that_are_new_at_the_end() {
    const THREADS: usize = 6;
    let scene = Scene::new();
    let over = AtomicBool::new(false);
    let is_left_out = |path: &Path| path.extension().is_some_and(|extension| extension == "skip");
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (scene, over) = (&scene, &over);
            scope.spawn(move || {
                let at = |number: u64, end: &str| scene.at(&format!("{thread}-{number}{end}"));
                let mut number = 0;
                while !over.load(Ordering::Relaxed) {
                    for path in [at(number, ""), at(number, ".skip")] {
                        fs::write(path, format!("{number}")).unwrap();
                    }
                    if let Some(old) = number.checked_sub(20) {
                        fs::remove_file(at(old, "")).unwrap();
                        fs::remove_file(at(old, ".skip")).unwrap();
                    }
                    number += 1;
                }
            });
        }
        let outcome = run(
            &[(&scene.source(), &scene.image())],
            &mut Given { exclude: Some(&mut |path| is_left_out(path)), ..Given::default() },
        );
        over.store(true, Ordering::Relaxed);
        outcome.ok();
    });
    let mut numbers = vec![Vec::new(); THREADS];
    for entry in fs::read_dir(scene.image()).unwrap() {
        let path = entry.unwrap().path();
        assert!(!is_left_out(&path), "{path:?}");
        let (thread, number) = path.file_name().unwrap().to_str().unwrap().split_once('-').unwrap();
        // All are whole but the last, which may be empty.
        let is_whole = fs::read_to_string(&path).unwrap() == number;
        numbers[thread.parse::<usize>().unwrap()].push((number.parse::<u64>().unwrap(), is_whole));
    }
    for mut numbers in numbers {
        numbers.sort_unstable();
        assert!(numbers.len() >= 20 || numbers.first().is_none_or(|(first, _)| *first == 0), "{numbers:?}");
        let whole = numbers.split_last().map_or(&[][..], |(_, whole)| whole);
        assert!(whole.iter().all(|(_, is_whole)| *is_whole), "{numbers:?}");
        assert!(numbers.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0), "{numbers:?}");
    }
}
