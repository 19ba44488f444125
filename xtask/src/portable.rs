//! A library that runs on every Linux of the last decade: linked by zig against glibc 2.17, and checked.

use crate::{needs, paths, sh};
use anyhow::{Context, Result, bail};
use object::Endianness;
use object::elf::FileHeader64;
use object::read::elf::FileHeader;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The newest glibc that the library may ask for.
const GLIBC: Version = (2, 17);

/// The linker and the command that gives it to cargo, from PyPI.
const PACKAGES: [&str; 2] = ["ziglang==0.17.1", "cargo-zigbuild==0.24.0"];

type Version = (u32, u32);

/// The target as cargo-zigbuild takes it.
fn target() -> String {
    format!("x86_64-unknown-linux-gnu.{}.{}", GLIBC.0, GLIBC.1)
}

/// `cargo zigbuild` with the arguments of `cargo build`; everything that it needs or keeps lies below `target/zig`.
pub fn cargo(arguments: &[&str]) -> Result<Command> {
    let dir = paths::workspace().join("target").join("zig");
    let programs = tools(&dir)?;
    let mut path = OsString::from(&programs);
    if let Some(others) = std::env::var_os("PATH") {
        path.push(":");
        path.push(others);
    }
    let mut cargo = sh::cargo(["zigbuild", "--target", &target()]);
    cargo.args(arguments).env("PATH", path);
    let caches = ["ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR", "CARGO_ZIGBUILD_CACHE_DIR"];
    cargo.envs(caches.map(|name| (name, dir.join("cache"))));
    Ok(cargo)
}

/// The folder of cargo-zigbuild and the Python that has zig, installed there when they are not yet.
fn tools(dir: &Path) -> Result<PathBuf> {
    let (venv, stamp) = (dir.join("venv"), dir.join("finished"));
    let programs = venv.join("bin");
    let recipe = PACKAGES.join(" ");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == recipe) {
        return Ok(programs);
    }
    needs::install(&[&needs::PYTHON_VENV])?;
    sh::run(sh::cmd("python3", ["-m", "venv", "--clear"]).arg(&venv))?;
    sh::run_patiently(|| {
        let mut pip = Command::new(programs.join("python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES);
        pip
    })?;
    fs::write(&stamp, recipe).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(programs)
}

/// Fails unless the library runs with glibc 2.17 and nothing else.
pub fn check(library: &Path) -> Result<()> {
    let content = fs::read(library).with_context(|| format!("cannot read {}", library.display()))?;
    let needed =
        needed_versions(&content).with_context(|| format!("cannot understand {}", library.display()))?;
    let newer: Vec<&str> = too_new(&needed).collect();
    if !newer.is_empty() {
        bail!("{} needs {}: no newer than GLIBC_2.17 is portable", library.display(), newer.join(", "));
    }
    if needed.is_empty() {
        bail!("{} names no version of glibc at all: what is it?", library.display());
    }
    Ok(())
}

/// The versions of symbols that an ELF file asks of other libraries (`.gnu.version_r`).
fn needed_versions(content: &[u8]) -> object::Result<Vec<String>> {
    let header = FileHeader64::<Endianness>::parse(content)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, content)?;
    let mut found = Vec::new();
    if let Some((mut libraries, strings)) = sections.gnu_verneed(endian, content)? {
        while let Some((_, mut versions)) = libraries.next()? {
            while let Some(version) = versions.next()? {
                let name = version.name(endian, sections.strings(endian, content, strings)?)?;
                found.push(String::from_utf8_lossy(name).into_owned());
            }
        }
    }
    Ok(found)
}

/// Those that are not of glibc, or of a newer one.
fn too_new<S: AsRef<str>>(needed: &[S]) -> impl Iterator<Item = &str> {
    needed.iter().map(AsRef::as_ref).filter(|name| glibc(name).is_none_or(|version| version > GLIBC))
}

/// `GLIBC_2.17`, `GLIBC_2.2.5`.
fn glibc(name: &str) -> Option<Version> {
    let mut numbers = name.strip_prefix("GLIBC_")?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_glibc_of_then_is_portable() {
        let needed = ["GLIBC_2.2.5", "GLIBC_2.17", "GLIBC_2.18", "GLIBC_3.0", "GLIBC_PRIVATE", "GCC_3.0"];
        let found: Vec<_> = too_new(&needed).collect();
        assert_eq!(found, ["GLIBC_2.18", "GLIBC_3.0", "GLIBC_PRIVATE", "GCC_3.0"]);
    }

    #[test]
    fn this_program_is_not_portable() {
        let exe = std::env::current_exe().unwrap();
        let needed = needed_versions(&fs::read(&exe).unwrap()).unwrap();
        assert!(needed.iter().any(|name| name.starts_with("GLIBC_2.")), "{needed:?}");
        let error = check(&exe).unwrap_err().to_string();
        assert!(error.contains("is portable") && error.contains("GLIBC_2."), "{error}");
        assert!(check(Path::new("/dev/null")).is_err());
    }
}
