//! `cargo xtask sanitize`: the unit tests and the twin under AddressSanitizer and ThreadSanitizer, what is pure under Miri.
//! (`docs/sanitizers.md`)
//!
//! The runtime of a sanitizer is a shared object here, that of Debian's clang. rustc would link it into the program:
//! there the program's calls of write(2) and the like lead to it by no slot, so that capture would not see them.

use crate::flags::Flags;
use crate::needs::{self, Need, Test};
use crate::{Failure, paths, sh};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

const MIRI: &str = "miri";
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Unit tests that need of the operating system no more than Miri has, and end in it. (Those of the manifest and the
/// throttle, which make megabytes or hours of virtual time, do not; those of ELF tables protect pages.)
const PURE: [&str; 9] = [
    "tracker::",
    "plugin::redo::records::",
    "fuzz::tests::manifest_",
    "fuzz::tests::mounts",
    "fuzz::tests::gtid_sets",
    "fuzz::tests::log_index",
    "fuzz::tests::redo_records",
    "fuzz::tests::proc_lines",
    "fuzz::tests::exclude_expressions",
];
/// One of them that fills a table of many places, three times.
const TOO_MANY: &str = "tracker::unseen::tests::places_are_used_again_and_their_number_is_bounded";
/// A program that does what each sanitizer must notice.
const CONTROL: &str = include_str!("sanitize/control.rs");

const RUNTIME: Need = Need {
    test: Test::Found("the sanitizers of clang", || runtimes("tsan").is_some()),
    packages: &["libclang-rt-19-dev"],
};
const SYMBOLIZER: Need = Need { test: Test::Program("llvm-symbolizer"), packages: &["llvm"] };

/// A sanitizer.
struct Sanitizer {
    /// As rustc calls it.
    name: &'static str,
    /// As clang calls its runtime.
    runtime: &'static str,
    /// The variable that it reads.
    variable: &'static str,
    options: &'static str,
    /// What it says of [`CONTROL`].
    control: &'static str,
    /// What it must not report, and why.
    suppressions: &'static str,
}

const ALL: [Sanitizer; 2] = [
    Sanitizer {
        name: "address",
        runtime: "asan",
        variable: "ASAN_OPTIONS",
        // Memory is kept on purpose: what hooks may still be using is never given back.
        options: "detect_leaks=0:exitcode=99",
        control: "heap-buffer-overflow",
        suppressions: "",
    },
    Sanitizer {
        name: "thread",
        runtime: "tsan",
        variable: "TSAN_OPTIONS",
        // Programs of the twin fork while threads run.
        options: "die_after_fork=0:exitcode=99:history_size=4",
        control: "data race",
        suppressions: include_str!("sanitize/thread.supp"),
    },
];

/// The subcommand. Exit code 1: something was found, or a test failed; the lines above tell.
pub fn run(args: &[String]) -> Result<ExitCode, Failure> {
    let mut flags = Flags::new(args);
    let rounds: u64 = flags.value("--rounds", "a number of rounds")?.unwrap_or(10);
    let seed: u64 = flags.value("--seed", "a number")?.unwrap_or(1);
    let words = flags.words();
    flags.end()?;
    let known = |word: &str| word == MIRI || ALL.iter().any(|sanitizer| sanitizer.name == word);
    if let Some(word) = words.iter().find(|word| !known(word)) {
        return Err(Failure::Usage(format!("there is no sanitizer `{word}`: address, thread, miri")));
    }
    let is_wanted = |name: &str| words.is_empty() || words.iter().any(|word| word == name);
    needs::install(&needs::TWIN)?;
    needs::install(&[&RUNTIME, &SYMBOLIZER])?;
    nightly_toolchain()?;
    let mut failed = Vec::new();
    let mut tell = |what: String, step: &dyn Fn() -> Result<bool>| -> Result<()> {
        let begin = Instant::now();
        let good = step()?;
        let ended = if good { "ok" } else { "FAILED" };
        println!("sanitize: {what}: {ended}, {:.0} s with building", begin.elapsed().as_secs_f64());
        failed.extend((!good).then_some(what));
        Ok(())
    };
    for sanitizer in ALL.iter().filter(|sanitizer| is_wanted(sanitizer.name)) {
        let place = Place::new(sanitizer)?;
        place.control()?;
        tell(format!("{}, unit tests", sanitizer.name), &|| place.unit_tests())?;
        tell(format!("{}, twin", sanitizer.name), &|| place.twin(rounds, seed))?;
    }
    if is_wanted(MIRI) {
        tell("miri, what is pure".into(), &miri)?;
    }
    if failed.is_empty() {
        println!("sanitize: ok");
        return Ok(ExitCode::SUCCESS);
    }
    println!("sanitize: FAILED: {}", failed.join("; "));
    Ok(ExitCode::FAILURE)
}

/// Where the newest runtime of that name is.
fn runtimes(name: &str) -> Option<PathBuf> {
    let file = format!("libclang_rt.{name}-x86_64.so");
    let versions = fs::read_dir("/usr/lib").ok()?.filter_map(|entry| {
        let entry = entry.ok()?;
        let version: u32 = entry.file_name().to_str()?.strip_prefix("llvm-")?.parse().ok()?;
        let directory = entry.path().join(format!("lib/clang/{version}/lib/linux"));
        directory.join(&file).exists().then_some((version, directory))
    });
    versions.max().map(|(_, directory)| directory)
}

/// The toolchain, with the sources of the standard library, which is instrumented, too.
fn nightly_toolchain() -> Result<()> {
    let has_sources = nightly("rustc", ["--print", "sysroot"]).output().is_ok_and(|output| {
        let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        output.status.success() && sysroot.join("lib/rustlib/src/rust/library/std/Cargo.toml").exists()
    });
    let miri = nightly("cargo", ["miri", "--version"]).output();
    if has_sources && miri.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    sh::run_patiently(|| {
        let mut rustup = sh::cmd("rustup", ["toolchain", "install", "nightly"]);
        rustup.args(["--profile", "minimal", "--component", "rust-src", "--component", "miri"]);
        rustup
    })
    .context("the sanitizers need a nightly toolchain of Rust with the components rust-src and miri")
}

/// A program of the nightly toolchain.
fn nightly<const N: usize>(program: &str, words: [&str; N]) -> Command {
    let mut command = sh::cmd("rustup", ["run", "nightly", program]);
    command.args(words).current_dir(paths::workspace()).env_remove("CARGO").env_remove("RUSTC");
    command
}

/// Builds and runs of one sanitizer.
struct Place {
    sanitizer: &'static Sanitizer,
    target: PathBuf,
    flags: Vec<String>,
    options: String,
}

impl Place {
    fn new(sanitizer: &'static Sanitizer) -> Result<Place> {
        let target = paths::workspace().join("target").join("sanitize").join(sanitizer.name);
        fs::create_dir_all(&target).with_context(|| format!("cannot make {}", target.display()))?;
        let runtime = runtimes(sanitizer.runtime).context("the runtime of the sanitizer is missing")?;
        let symbolizer = sh::which("llvm-symbolizer").context("llvm-symbolizer is missing")?;
        let suppressions = target.join("suppressions");
        fs::write(&suppressions, sanitizer.suppressions)
            .with_context(|| format!("cannot write {}", suppressions.display()))?;
        let options = format!(
            "{}:suppressions={}:external_symbolizer_path={}",
            sanitizer.options,
            suppressions.display(),
            symbolizer.display()
        );
        let directory = runtime.display();
        let link = format!(
            "-L{directory} -Wl,--no-as-needed -lclang_rt.{}-x86_64 -Wl,--as-needed -Wl,-rpath,{directory}",
            sanitizer.runtime
        );
        let flags = vec![
            format!("-Zsanitizer={}", sanitizer.name),
            "-Zexternal-clangrt".into(),
            "-Cforce-frame-pointers=yes".into(),
            format!("-Zpre-link-args={link}"),
        ];
        Ok(Place { sanitizer, target, flags, options })
    }

    /// Without what it must notice, no silence of the sanitizer means anything.
    fn control(&self) -> Result<()> {
        let source = self.target.join("control.rs");
        fs::write(&source, CONTROL).with_context(|| format!("cannot write {}", source.display()))?;
        let program = self.target.join("control");
        let mut rustc = nightly("rustc", ["--edition=2024", "-g", "--target", TARGET]);
        // The control alone has the standard library as it comes.
        rustc.arg("-Cunsafe-allow-abi-mismatch=sanitizer");
        sh::run(rustc.args(&self.flags).arg("-o").arg(&program).arg(&source))?;
        let mut command = Command::new(&program);
        let output = command.arg(self.sanitizer.name).env(self.sanitizer.variable, &self.options).output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        if output.status.success() || !text.contains(self.sanitizer.control) {
            bail!("the sanitizer does not notice what the control does: {}, {text}", output.status);
        }
        Ok(())
    }

    fn cargo<const N: usize>(&self, words: [&str; N]) -> Command {
        let mut cargo = nightly("cargo", words);
        cargo.args(["-Zbuild-std", "--target", TARGET]);
        cargo.env("CARGO_TARGET_DIR", &self.target).env(self.sanitizer.variable, &self.options);
        cargo.env("CARGO_ENCODED_RUSTFLAGS", self.flags.join("\u{1f}"));
        cargo
    }

    fn unit_tests(&self) -> Result<bool> {
        let mut cargo = self.cargo(["test", "--package", "tokudb_backup", "--lib"]);
        Ok(sh::status(&mut cargo)?.success())
    }

    fn twin(&self, rounds: u64, seed: u64) -> Result<bool> {
        let packages = ["build", "--package", "tokudb_backup", "--package", "twin", "--package", "twin_late"];
        sh::run(self.cargo(packages).args(["--features", "twin/sanitized"]))?;
        let scratch = self.target.join("scratch");
        fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
        let built = self.target.join(TARGET).join("debug");
        let mut twin = Command::new(built.join("twin"));
        twin.arg("--lib").arg(built.join("libtokudb_backup.so")).arg("--dir").arg(&scratch);
        twin.args(["--rounds", &rounds.to_string(), "--seed", &seed.to_string()]);
        twin.env(self.sanitizer.variable, &self.options);
        Ok(sh::status(&mut twin)?.success())
    }
}

fn miri() -> Result<bool> {
    let mut cargo = nightly("cargo", ["miri", "test", "--package", "tokudb_backup", "--lib", "--"]);
    // Clock, environment and /proc are the machine's.
    cargo
        .args(PURE)
        .args(["--skip", TOO_MANY])
        .env("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-permissive-provenance");
    cargo.env("CARGO_TARGET_DIR", paths::workspace().join("target").join("sanitize").join(MIRI));
    Ok(sh::status(&mut cargo)?.success())
}
