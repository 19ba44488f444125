//! What `cargo xtask build` made: the plugin and libHotBackup, in one folder.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;

/// The plugin, `tokudb_backup.so`.
///
/// # Errors
/// When it is not built.
pub fn plugin() -> Result<PathBuf> {
    library("tokudb_backup.so")
}

/// The same library under the name that programs link and preload, `libHotBackup.so`.
///
/// # Errors
/// When it is not built.
pub fn hot_backup() -> Result<PathBuf> {
    library("libHotBackup.so")
}

/// Both libraries of `cargo xtask build --release --portable`.
///
/// # Errors
/// When they are not built.
pub fn portable() -> Result<[PathBuf; 2]> {
    let dir = match std::env::var_os("TOKUDB_BACKUP_PORTABLE_DIR").filter(|v| !v.is_empty()) {
        Some(dir) => dir.into(),
        None => profile()?.with_file_name("x86_64-unknown-linux-gnu").join("release/plugin"),
    };
    let files = ["tokudb_backup.so", "libHotBackup.so"].map(|name| dir.join(name));
    if let Some(missing) = files.iter().find(|file| !file.is_file()) {
        bail!("{} is not there: run `cargo xtask build --release --portable` first", missing.display());
    }
    Ok(files)
}

fn library(name: &str) -> Result<PathBuf> {
    let file = dir()?.join(name);
    if !file.is_file() {
        bail!("{} is not there: run `cargo xtask build` first", file.display());
    }
    Ok(file)
}

/// What xtask says in `TOKUDB_BACKUP_PLUGIN_DIR`, or else the folder `plugin` of the profile that this program was
/// built in.
fn dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("TOKUDB_BACKUP_PLUGIN_DIR").filter(|v| !v.is_empty()) {
        return Ok(dir.into());
    }
    Ok(profile()?.join("plugin"))
}

/// target/PROFILE, where this program was built.
fn profile() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot find this program's own path")?;
    // target/PROFILE/lab or, for a test, target/PROFILE/deps/NAME-HASH
    let profile = exe.ancestors().skip(1).find(|dir| dir.file_name().is_some_and(|name| name != "deps"));
    Ok(profile.with_context(|| format!("{} has no parent", exe.display()))?.to_owned())
}
