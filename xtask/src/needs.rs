//! What the machine must have beyond cargo and rustc; what is missing is installed with apt-get.

use crate::sh;
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Stdio;

/// Something that must be there, and the Debian packages that bring it.
pub struct Need {
    /// How to see that it is there.
    pub test: Test,
    /// What to install when it is not.
    pub packages: &'static [&'static str],
}

/// How to see that a [`Need`] is met.
pub enum Test {
    /// A program in `PATH`.
    Program(&'static str),
    /// A library that pkg-config knows.
    Library(&'static str),
    /// A C header of the system's own.
    Header(&'static str),
    /// A module that `python3` has.
    Python(&'static str),
    /// Something of that name, which the function finds.
    Found(&'static str, fn() -> bool),
}

impl Test {
    fn met(&self) -> bool {
        match self {
            Test::Program(name) => sh::which(name).is_some(),
            Test::Library(name) => {
                sh::cmd("pkg-config", ["--exists", name]).status().is_ok_and(|s| s.success())
            }
            Test::Header(name) => Path::new("/usr/include").join(name).exists(),
            Test::Python(name) => sh::cmd("python3", ["-c", &format!("import {name}")])
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success()),
            Test::Found(_, is_there) => is_there(),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Test::Program(name) | Test::Library(name) | Test::Header(name) | Test::Python(name) => name,
            Test::Found(name, _) => name,
        }
    }
}

/// Unpacking of Debian packages.
pub const DPKG_DEB: Need = Need { test: Test::Program("dpkg-deb"), packages: &["dpkg"] };
/// Unpacking of archives.
pub const TAR: Need = Need { test: Test::Program("tar"), packages: &["tar"] };
/// A mount namespace for a server of another Debian release.
pub const UNSHARE: Need = Need { test: Test::Program("unshare"), packages: &["util-linux"] };
/// Fetching of MySQL 5.6.
pub const NPM: Need = Need { test: Test::Program("npm"), packages: &["npm"] };

/// File systems in files, for destinations that fail.
pub const VOLUMES: [&Need; 2] = [
    &Need { test: Test::Program("mkfs.ext4"), packages: &["e2fsprogs"] },
    &Need { test: Test::Program("losetup"), packages: &["mount"] },
];

/// A place for what comes from PyPI; `venv` alone is there without it, and fails.
pub const PYTHON_VENV: Need = Need { test: Test::Python("ensurepip"), packages: &["python3-venv"] };
/// A server that is linked with our library.
pub const PATCHELF: Need = Need { test: Test::Program("patchelf"), packages: &["patchelf"] };

/// What the coverage oracle watches servers with.
pub const STRACE: Need = Need { test: Test::Program("strace"), packages: &["strace"] };

/// The SQL client of `tests/lab`.
pub const CLIENT: [&Need; 2] = [
    &Need { test: Test::Program("pkg-config"), packages: &["pkg-config"] },
    &Need { test: Test::Library("libmariadb"), packages: &["libmariadb-dev"] },
];

/// What the twin test links to, a compiler for what it compiles from C and C++, and what makes the file systems on
/// which it runs.
pub const TWIN: [&Need; 8] = [
    &Need { test: Test::Header("libaio.h"), packages: &["libaio-dev"] },
    &Need { test: Test::Header("liburing.h"), packages: &["liburing-dev"] },
    &Need { test: Test::Program("gcc"), packages: &["gcc", "libc6-dev"] },
    &Need { test: Test::Program("g++"), packages: &["g++"] },
    &Need { test: Test::Program("mount"), packages: &["mount"] },
    &Need { test: Test::Program("mkfs.ext4"), packages: &["e2fsprogs"] },
    &Need { test: Test::Program("mkfs.xfs"), packages: &["xfsprogs"] },
    &Need { test: Test::Program("mkfs.btrfs"), packages: &["btrfs-progs"] },
];

/// Adds a component of the Rust toolchain, if the cargo command that it brings does not run.
pub fn rust_component(component: &str, command: &str) -> Result<()> {
    // The program may be there all the same: rustup's proxy, which then only says what is missing.
    let found = sh::cargo([command, "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    sh::run(&mut sh::cmd("rustup", ["component", "add", component]))
        .with_context(|| format!("`cargo {command}` is missing here: install it"))
}

/// Installs what is missing.
pub fn install(needs: &[&Need]) -> Result<()> {
    let missing: Vec<&&Need> = needs.iter().filter(|need| !need.test.met()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|need| need.test.name()).collect();
    let packages: Vec<&str> = missing.iter().flat_map(|need| need.packages.iter().copied()).collect();
    println!("missing here: {}; installing {}", names.join(", "), packages.join(" "));
    let apt = || {
        let mut command = sh::cmd("apt-get", ["install", "--yes", "--no-install-recommends"]);
        command.args(&packages).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    // The package lists may be absent or stale: refresh them only when the first attempt fails.
    if sh::run(&mut apt()).is_err() {
        sh::run_patiently(|| sh::cmd("apt-get", ["update"]))?;
        sh::run_patiently(apt).with_context(|| {
            format!("install these packages as root, then call again: {}", packages.join(" "))
        })?;
    }
    Ok(())
}
