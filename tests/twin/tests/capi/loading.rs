//! The three ways to bring the library into a program, in programs of their own, which also show that it prints
//! nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use twin::compare;
use twin::library::Library;

use crate::scene::Scene;

/// Where C sources and the header are.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

fn compile(compiler: &str, source: &str, arguments: &[&str]) {
    let mut command = Command::new(compiler);
    command.arg("-I").arg(root().join("include"));
    run(command
        .arg(root().join("tests/twin/tests/c").join(source))
        .args(arguments)
        .args(["-Wall", "-Wextra", "-Werror"]));
}

/// Runs the program in this way, and says what a process of its own must not.
fn backs_up(flags: &[&str], prepare: impl FnOnce(&mut Command, &Path)) {
    let scene = Scene::new();
    let (program, lib) = (scene.base.join("program"), Library::find().unwrap().canonicalize().unwrap());
    // What a program is linked with and preloads has this name.
    let named = scene.base.join("libHotBackup.so");
    std::os::unix::fs::symlink(&lib, &named).unwrap();
    let mut arguments = vec!["-o", program.to_str().unwrap()];
    arguments.extend(flags);
    if flags.is_empty() {
        arguments.extend(["-L", scene.base.to_str().unwrap(), "-lHotBackup"]);
    }
    compile("cc", "backup.c", &arguments);
    scene.file("file", &[b'.'; 50_000]);
    scene.file("left-out", b"left out");
    scene.file("d/other", b"other");
    let mut command = Command::new(&program);
    command.arg(scene.source()).arg(scene.image()).arg(&named);
    prepare(&mut command, &named);
    let output = run(&mut command);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{version} 0 after\n"));
    let left_out = |name: &Path| name.ends_with("left-out");
    let differences = compare::differences(&scene.source(), &scene.image(), &left_out, 9);
    assert!(differences.is_empty(), "{differences:?}");
    assert!(fs::read(scene.image().join("moved")).unwrap().starts_with(b"HOT."));
}

#[test]
fn linked() {
    backs_up(&[], |command, named| {
        command.env("LD_LIBRARY_PATH", named.parent().unwrap());
    });
}

#[test]
fn preloaded() {
    backs_up(&["-DPRELOADED", "-ldl"], |command, named| {
        command.env("LD_PRELOAD", named);
    });
}

/// With a file that was opened before.
#[test]
fn loaded() {
    backs_up(&["-DLOADED", "-ldl"], |_, _| {});
}

#[test]
fn the_header_is_strict_c_and_cplusplus() {
    compile("cc", "backup.c", &["-fsyntax-only", "-std=c99", "-pedantic"]);
    compile("c++", "header.cc", &["-fsyntax-only", "-std=c++98", "-pedantic"]);
    compile("c++", "header.cc", &["-fsyntax-only", "-std=c++20", "-pedantic"]);
}
