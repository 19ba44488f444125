//! What exclude_copy_fun leaves out.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

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
