//! A server from Debian, of any release, by a private apt: own lists, own cache, an empty database of installed
//! packages (so that the whole closure comes), and the machine's own mirror and keyring.

use super::sources::{self, Source};
use crate::sh;
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What to fetch.
pub struct Recipe {
    /// The release.
    pub suite: &'static str,
    /// The packages; what they depend on comes with them.
    pub packages: &'static [&'static str],
    /// Where the server runs on the machine's own libraries: those that it needs from its release nevertheless.
    pub only_libraries: &'static [&'static str],
}

/// Where Debian has its libraries, in a tree.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Fetches the packages and unpacks them as the tree `dir/root`, with `dir/lib` beside it.
pub fn fetch(recipe: &Recipe, dir: &Path) -> Result<()> {
    let apt = Apt::new(recipe, &dir.join("apt"))?;
    sh::run_patiently(|| apt.get(&["update", "-o", "APT::Update::Error-Mode=any"], &[]))?;
    // What an attempt before this one left behind is used again, unless the mirror has newer packages by now.
    sh::run(&mut apt.get(&["autoclean", "-qq"], &[]))?;
    sh::run_patiently(|| apt.get(&["install", "--yes", "--download-only", "-qq"], recipe.packages))?;

    let root = dir.join("root");
    super::remove(&root)?;
    make_root(&root)?;
    let archives = apt.home.join("cache/archives");
    let mut packages: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(&archives)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "deb") {
            packages.push(path);
        }
    }
    packages.sort();
    println!("  unpacking {} packages into {}", packages.len(), root.display());
    for package in &packages {
        unpack(package, &root)?;
    }

    let lib = dir.join("lib");
    super::remove(&lib)?;
    fs::create_dir(&lib)?;
    for name in recipe.only_libraries {
        let target = Path::new("../root").join(LIBRARIES).join(name);
        if !lib.join(&target).exists() {
            bail!("the packages of {} bring no {name}", recipe.suite);
        }
        symlink(target, lib.join(name))?;
    }
    super::remove(&apt.home)
}

/// The tree before the first package: merged /usr, and the few files of /etc that a server looks at.
fn make_root(root: &Path) -> Result<()> {
    for name in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(name))?;
        symlink(Path::new("usr").join(name), root.join(name))?;
    }
    fs::create_dir_all(root.join("etc"))?;
    for name in ["passwd", "group", "hosts", "nsswitch.conf", "protocols", "services", "localtime"] {
        let from = Path::new("/etc").join(name);
        if from.is_file() {
            fs::copy(&from, root.join("etc").join(name))?;
        }
    }
    Ok(())
}

fn unpack(package: &Path, root: &Path) -> Result<()> {
    let mut dpkg =
        sh::cmd("dpkg-deb", ["--fsys-tarfile"]).arg(package).stdout(std::process::Stdio::piped()).spawn()?;
    let Some(stream) = dpkg.stdout.take() else { bail!("dpkg-deb has no output") };
    let tar = sh::cmd("tar", ["--extract", "--keep-directory-symlink", "--file", "-", "--directory"])
        .arg(root)
        .stdin(stream)
        .status()?;
    let dpkg = dpkg.wait()?;
    if !dpkg.success() || !tar.success() {
        bail!("cannot unpack {}: dpkg-deb {dpkg}, tar {tar}", package.display());
    }
    Ok(())
}

/// A private apt.
struct Apt {
    home: PathBuf,
    conf: PathBuf,
}

impl Apt {
    fn new(recipe: &Recipe, home: &Path) -> Result<Self> {
        for dir in ["empty", "state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(home.join(dir))?;
        }
        let write = |name: &str, text: &str| {
            let path = home.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        write("status", "")?;
        write("sources.list", &source_lines(recipe.suite)?)?;
        let at = |name: &str| home.join(name).display().to_string();
        let mut conf = String::new();
        for (key, value) in [
            ("Dir::Etc::SourceList", at("sources.list")),
            ("Dir::Etc::SourceParts", at("empty")),
            ("Dir::Etc::Parts", at("empty")),
            ("Dir::Etc::Main", "/dev/null".into()),
            ("Dir::Etc::Preferences", "/dev/null".into()),
            ("Dir::Etc::PreferencesParts", at("empty")),
            ("Dir::State", at("state")),
            ("Dir::State::status", at("status")),
            ("Dir::Cache", at("cache")),
            ("APT::Architecture", "amd64".into()),
            ("APT::Architectures", "amd64".into()),
            ("APT::Sandbox::User", "root".into()),
            ("APT::Install-Recommends", "false".into()),
            ("Acquire::Languages", "none".into()),
            ("Acquire::Check-Valid-Until", "false".into()),
            ("Acquire::Check-Date", "false".into()),
            ("Acquire::Retries", "3".into()),
        ] {
            writeln!(conf, "{key} \"{value}\";")?;
        }
        conf.push_str(&proxies()?);
        write("apt.conf", &conf)?;
        Ok(Apt { home: home.into(), conf: home.join("apt.conf") })
    }

    fn get(&self, words: &[&str], packages: &[&str]) -> Command {
        let mut command = sh::cmd("apt-get", words);
        command.args(packages).env("APT_CONFIG", &self.conf).env("DEBIAN_FRONTEND", "noninteractive");
        command
    }
}

/// How the machine reaches its mirrors.
fn proxies() -> Result<String> {
    let all = sh::output(&mut sh::cmd("apt-config", ["dump"]))?;
    let ours = ["Acquire::http::", "Acquire::https::"];
    Ok(all.lines().filter(|l| ours.iter().any(|o| l.starts_with(o))).map(|l| format!("{l}\n")).collect())
}

/// The private `sources.list`: one release, with its security updates where it has any.
fn source_lines(suite: &str) -> Result<String> {
    let mirrors = sources::mirrors()?;
    let line = |source: &Source, suite: &str| {
        let keyring = source.keyring().map_or_else(String::new, |k| format!("[signed-by={}] ", k.display()));
        format!("deb {keyring}{} {suite} main\n", source.uri)
    };
    let mut lines = line(&mirrors.main, suite);
    if let Some(security) = mirrors.security.as_ref().filter(|_| suite != "sid") {
        lines.push_str(&line(security, &format!("{suite}-security")));
    }
    Ok(lines)
}
