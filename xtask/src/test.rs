//! `cargo xtask test`: the whole test suite, from a fresh machine with a Rust toolchain on.

use crate::flags::Flags;
use crate::{Failure, build, lab, mtr, needs, servers, sh};
use anyhow::{Context, Result};
use std::process::ExitCode;
use std::time::Instant;

/// The subcommand.
pub fn run(args: &[String]) -> Result<ExitCode, Failure> {
    Flags::new(args).end()?;
    let begin = Instant::now();
    step("what the machine needs", || {
        needs::install(&needs::CLIENT)?;
        needs::install(&needs::TWIN)?;
        needs::install(&needs::VOLUMES)?;
        needs::install(&[&needs::PATCHELF, &needs::PYTHON_VENV, &needs::STRACE])?;
        needs::rust_component("rustfmt", "fmt")?;
        needs::rust_component("clippy", "clippy")
    })?;
    step("format", || sh::run(&mut sh::cargo(["fmt", "--all", "--check"])))?;
    step("lints", || {
        sh::run(&mut sh::cargo(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))
    })?;
    // The one waits for mirrors, the other for the compiler.
    let portable = step("servers, portable plugin", || {
        std::thread::scope(|scope| {
            let portable = scope.spawn(|| build::build_portable(true));
            let servers = servers::fetch(&servers::ALL);
            let portable = portable.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            servers.and(portable)
        })
    })?;
    let plugins = step("plugin", || build::build(false))?;
    let test = |words: &[&str]| {
        let mut cargo = sh::cargo(["test"]);
        sh::run(cargo.args(words).env(lab::PLUGIN_DIR, &plugins).env(lab::PORTABLE_DIR, &portable))
    };
    step("tests without a running server", || test(&["--workspace", "--exclude", "lab"]))?;
    step("model check", || {
        let model = ["--package", "tokudb_backup", "--features", "model", "--test", "model"];
        sh::run(sh::cargo(["clippy"]).args(model).args(["--", "--deny", "warnings"]))?;
        test(&model)
    })?;
    step("tests on real servers", || test(&["--package", "lab"]))?;
    step("mysql-test-run", || mtr::run_all(&plugins))?;
    println!("test: ok, {:.1} s", begin.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

/// Does one step, between its name and its time.
fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("== {name}");
    let begin = Instant::now();
    let result = work().with_context(|| format!("test: FAILED at `{name}`"))?;
    println!("== {name}: ok, {:.1} s", begin.elapsed().as_secs_f64());
    Ok(result)
}
