//! `cargo xtask build [--release] [--portable]`: the plugin and libHotBackup, one library under two names.

use crate::{Failure, flags::Flags};
use crate::{portable, sh};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{fs, io};

/// The names under which the library ships.
const NAMES: [&str; 2] = ["tokudb_backup.so", "libHotBackup.so"];

/// The subcommand: its last line is the folder of the two files.
pub fn run(args: &[String]) -> Result<ExitCode, Failure> {
    let mut flags = Flags::new(args);
    let (release, portable) = (flags.switch("--release"), flags.switch("--portable"));
    flags.end()?;
    let dir = if portable { build_portable(release)? } else { build(release)? };
    println!("{}", dir.display());
    Ok(ExitCode::SUCCESS)
}

const LIBRARY: [&str; 3] = ["--package", "tokudb_backup", "--lib"];

/// Builds the library and returns `target/PROFILE/plugin`, where it now lies under both names.
pub fn build(release: bool) -> Result<PathBuf> {
    let mut cargo = sh::cargo(["build"]);
    cargo.args(LIBRARY);
    finish(cargo, release, |_| Ok(()))
}

/// The same for servers on glibc 2.17 or later, in a folder of the target's own.
pub fn build_portable(release: bool) -> Result<PathBuf> {
    finish(portable::cargo(&LIBRARY)?, release, portable::check)
}

fn finish(mut cargo: Command, release: bool, check: fn(&Path) -> Result<()>) -> Result<PathBuf> {
    if release {
        cargo.arg("--release");
    }
    sh::show(&cargo);
    // Messages to read stay on the standard error; the artifacts come as JSON, one object a line.
    let messages = sh::output(cargo.arg("--message-format=json-render-diagnostics"))?;
    let library = messages.lines().find_map(cdylib).context("cargo did not say where the library is")?;
    check(&library)?;
    let dir = library.parent().context("the library has no folder")?.join("plugin");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    place(&library, &dir).with_context(|| format!("cannot put the library into {}", dir.display()))?;
    Ok(dir)
}

/// The path of our shared library, if this message of cargo's is about it.
fn cdylib(message: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact" || message["target"]["name"] != "tokudb_backup" {
        return None;
    }
    let files = message["filenames"].as_array()?.iter().filter_map(|file| file.as_str());
    files.map(PathBuf::from).find(|file| file.extension().is_some_and(|e| e == "so"))
}

/// Puts the library there under both names, as one inode: a server that preloads one and installs the other must get
/// the same instance. By rename, since writing over a file that a server has loaded kills the server.
fn place(library: &Path, dir: &Path) -> io::Result<()> {
    let built = fs::read(library)?;
    let in_place = |name| fs::read(dir.join(name)).is_ok_and(|found| found == built);
    if NAMES.iter().all(in_place) && same_inode(&dir.join(NAMES[0]), &dir.join(NAMES[1]))? {
        return Ok(());
    }
    let fresh = dir.join(format!(".{}", std::process::id()));
    fs::copy(library, &fresh)?;
    for name in NAMES {
        let link = dir.join(format!(".{}-{name}", std::process::id()));
        fs::hard_link(&fresh, &link)?;
        fs::rename(&link, dir.join(name))?;
    }
    fs::remove_file(&fresh)
}

fn same_inode(a: &Path, b: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (a, b) = (fs::metadata(a)?, fs::metadata(b)?);
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_by_rename_as_one_inode() {
        let dir = std::env::temp_dir().join(format!("xtask-place-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let library = dir.join("built");
        let inode = || {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(dir.join(NAMES[0])).unwrap().ino()
        };
        fs::write(&library, "one").unwrap();
        place(&library, &dir).unwrap();
        let loaded = fs::File::open(dir.join(NAMES[0])).unwrap();
        let before = inode();
        place(&library, &dir).unwrap();
        assert_eq!(inode(), before, "what has not changed stays");
        fs::write(&library, "two").unwrap();
        place(&library, &dir).unwrap();
        assert_ne!(inode(), before);
        assert_eq!(io::read_to_string(loaded).unwrap(), "one", "whoever has it loaded keeps it");
        for name in NAMES {
            assert_eq!(fs::read_to_string(dir.join(name)).unwrap(), "two");
        }
        assert!(same_inode(&dir.join(NAMES[0]), &dir.join(NAMES[1])).unwrap());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 3, "nothing temporary is left");
        fs::remove_dir_all(&dir).unwrap();
    }
}
