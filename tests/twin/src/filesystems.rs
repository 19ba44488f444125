//! File systems made for a run: on loop devices below a directory, and all the rest that sources may lie on.
//!
//! They are mounted in a namespace of this process and its children, so that nothing is left mounted however they
//! end; the loop devices go with the mounts.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::arguments::Arguments;
use crate::library::c_string;

/// What a source may lie on, and to which other file system it is backed up besides its own.
pub const ALL: [(&str, &str); 7] = [
    ("ext4", "xfs"),
    ("xfs", "btrfs"),
    ("btrfs", "tmpfs"),
    ("tmpfs", "overlayfs"),
    // Some of its files lie on the lower layer at first.
    ("overlayfs", "ext4"),
    // Its directories do not tell types.
    ("untyped", "ext4"),
    // So small that writes fail for want of room; an image of its own has none at all.
    ("small", "ext4"),
];

type Result<T> = std::result::Result<T, String>;

/// A mount namespace of our own. No other thread may run yet.
pub fn enter_namespace() -> Result<()> {
    let failed = |what: &str| format!("{what}: {} (it takes root)", io::Error::last_os_error());
    // SAFETY: a flag.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(failed("no mount namespace can be made"));
    }
    mount(c"none", Path::new("/"), c"none", libc::MS_REC | libc::MS_PRIVATE, c"")
        .map_err(|_| failed("mounts cannot be made private"))
}

fn mount(source: &CStr, target: &Path, kind: &CStr, flags: libc::c_ulong, data: &CStr) -> Result<()> {
    let target_string = c_string(target);
    // SAFETY: C strings.
    let done = unsafe {
        libc::mount(source.as_ptr(), target_string.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast())
    };
    if done == 0 {
        return Ok(());
    }
    Err(format!("cannot mount {kind:?} at {}: {}", target.display(), io::Error::last_os_error()))
}

fn run(program: &str, words: &[&str], last: &Path) -> Result<()> {
    let output = Command::new(program).args(words).arg(last).output();
    let output = output.map_err(|error| format!("cannot start {program}: {error}; install it"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {}", last.display(), String::from_utf8_lossy(&output.stderr).trim()))
}

/// A file system that is unmounted when it is dropped.
#[derive(Debug)]
pub struct FileSystem {
    /// Where to work on it.
    pub directory: PathBuf,
    /// Everything of it lies below.
    home: PathBuf,
    mounts: Vec<PathBuf>,
}

impl FileSystem {
    /// Makes the file system `name` of [`ALL`] with all that it needs in the new directory `home`.
    pub fn make(name: &str, home: &Path) -> Result<FileSystem> {
        let mut made = FileSystem { directory: home.join("fs"), home: home.to_owned(), mounts: Vec::new() };
        made.make_directory("fs")?;
        match name {
            "ext4" => made.on_a_loop("mkfs.ext4", &["-q", "-F"], 1 << 30, "fs")?,
            "untyped" => made.on_a_loop("mkfs.ext4", &["-q", "-F", "-O", "^filetype"], 1 << 30, "fs")?,
            "small" => {
                let options = ["-q", "-F", "-O", "^has_journal", "-m", "0", "-N", "2048"];
                made.on_a_loop("mkfs.ext4", &options, 3 << 20, "fs")?;
            }
            "xfs" => made.on_a_loop("mkfs.xfs", &["-q", "-f"], 1 << 30, "fs")?,
            "btrfs" => made.on_a_loop("mkfs.btrfs", &["-q", "-f"], 1 << 30, "fs")?,
            "tmpfs" => made.mount(c"none", "fs", c"tmpfs", c"size=1g")?,
            "overlayfs" => made.on_layers()?,
            _ => {
                let known = ALL.map(|(name, _)| name).join(", ");
                return Err(format!("there is no file system `{name}`; known are {known}"));
            }
        }
        Ok(made)
    }

    fn make_directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.home.join(name);
        fs::create_dir_all(&path).map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        Ok(path)
    }

    fn mount(&mut self, source: &CStr, name: &str, kind: &CStr, data: &CStr) -> Result<()> {
        let target = self.make_directory(name)?;
        mount(source, &target, kind, 0, data)?;
        self.mounts.push(target);
        Ok(())
    }

    fn on_a_loop(&mut self, program: &str, options: &[&str], size: u64, name: &str) -> Result<()> {
        let target = self.make_directory(name)?;
        let image = self.home.join("image");
        let made = File::create(&image).and_then(|image| image.set_len(size));
        made.map_err(|error| format!("cannot make {}: {error}", image.display()))?;
        run(program, options, &image)?;
        run("mount", &["-o", "loop", &image.to_string_lossy()], &target)?;
        self.mounts.push(target);
        Ok(())
    }

    /// An overlayfs whose lower layer has files of all sources already.
    fn on_layers(&mut self) -> Result<()> {
        self.on_a_loop("mkfs.ext4", &["-q", "-F"], 1 << 30, "layers")?;
        let [lower, upper, work] = ["lower", "upper", "work"].map(|name| self.home.join("layers").join(name));
        [&upper, &work]
            .into_iter()
            .try_for_each(fs::create_dir)
            .and_then(|()| populate(&lower.join("twin")))
            .map_err(|error| format!("cannot make layers in {}: {error}", self.home.display()))?;
        let layers =
            [b"lowerdir=", lower.as_os_str().as_bytes(), b",upperdir=", upper.as_os_str().as_bytes()];
        let options = [&layers.concat()[..], b",workdir=", work.as_os_str().as_bytes()].concat();
        let options = CString::new(options).map_err(|error| error.to_string())?;
        self.mount(c"overlay", "fs", c"overlay", &options)
    }
}

/// What programs find on a lower layer.
fn populate(root: &Path) -> io::Result<()> {
    for source in ["source0", "source1", "source2"] {
        for directory in ["", "d0", "d1", "d1/d0"] {
            let directory = root.join(source).join(directory);
            fs::create_dir_all(&directory)?;
            for (index, name) in ["f0", "f1", "f2", "f3", "f4", "x0"].into_iter().enumerate() {
                fs::write(directory.join(name), vec![index as u8 + 1; 9000 * index + 700])?;
            }
            std::os::unix::fs::symlink("f1", directory.join("l0"))?;
        }
    }
    Ok(())
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        for mounted in self.mounts.iter().rev() {
            let path = c_string(mounted);
            // SAFETY: a C string.
            unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        }
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// A directory that is removed again.
struct Home(PathBuf);

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs rounds on each file system (or one), with images on the same and on another. The number of failures.
pub fn run_on_each(arguments: &Arguments, only: Option<&str>) -> Result<u64> {
    enter_namespace()?;
    let path = arguments.dir.join(format!("filesystems-{}", std::process::id()));
    fs::create_dir_all(&path).map_err(|error| format!("cannot make {}: {error}", path.display()))?;
    let home = Home(fs::canonicalize(&path).map_err(|error| format!("{}: {error}", path.display()))?);
    if let Some(name) = only.filter(|only| !ALL.iter().any(|(name, _)| name == only)) {
        return FileSystem::make(name, &home.0.join("none")).map(|_| 1);
    }
    let mut failed = 0;
    for (source, other) in ALL.into_iter().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        for destination in [source, other].into_iter().filter(|name| *name != "small") {
            failed += run_on(arguments, source, destination, &home.0)?;
        }
    }
    Ok(failed)
}

fn run_on(arguments: &Arguments, source: &str, destination: &str, home: &Path) -> Result<u64> {
    // What lies on a lower layer does so once only.
    let fresh = source == "overlayfs";
    let (runs, rounds) = if fresh { (arguments.rounds, 1) } else { (1, arguments.rounds) };
    let (mut ran, mut failed, mut operations, mut full) = (0, 0, 0, 0);
    let mut missing = Vec::new();
    for run in 0..runs {
        let made = FileSystem::make(source, &home.join("source"))?;
        let other = if source == destination {
            None
        } else {
            Some(FileSystem::make(destination, &home.join("destination"))?)
        };
        let sources = if fresh { made.directory.join("twin") } else { made.directory.clone() };
        let images = other.as_ref().map_or(made.directory.join("images"), |other| other.directory.clone());
        fs::create_dir_all(&images).map_err(|error| format!("cannot make {}: {error}", images.display()))?;
        let output = child(arguments, &sources, &images, fresh, rounds, arguments.first + run)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let good =
            text.lines().filter(|line| line.starts_with("twin: round") && line.ends_with(" ok")).count();
        ran += good as u64;
        let counts = text.lines().find(|line| line.contains("operations in all")).unwrap_or("");
        let numbers: Vec<u64> = counts.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        operations += numbers.first().unwrap_or(&0);
        full += numbers.get(1).unwrap_or(&0);
        let absent = text.lines().filter_map(|line| line.strip_suffix("  (not supported here)"));
        missing = absent
            .filter_map(|line| Some(line.trim_start().rsplit_once("  ")?.1.trim().to_owned()))
            .collect();
        if !output.status.success() {
            failed += 1;
            println!(
                "{text}{}twin: the program ended with {}",
                String::from_utf8_lossy(&output.stderr),
                output.status
            );
        }
    }
    println!(
        "twin: {source} to {destination}: {ran} rounds good, {failed} failed, seed {}; {operations} operations, {full} \
         of them without room; not supported: {}",
        arguments.seed,
        if missing.is_empty() { "none".to_owned() } else { missing.join(", ") }
    );
    if source == "small" && full == 0 && failed == 0 {
        return Err("on the small file system nothing failed for want of room: make it smaller".into());
    }
    Ok(failed)
}

/// The rounds themselves, in a process of their own.
fn child(
    arguments: &Arguments,
    sources: &Path,
    images: &Path,
    as_is: bool,
    rounds: u64,
    first: u64,
) -> Result<Output> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.arg("--lib").arg(&arguments.lib).arg("--dir").arg(sources).arg("--images").arg(images);
    let numbers = [("--rounds", Some(rounds)), ("--first", Some(first)), ("--seed", Some(arguments.seed))];
    for (name, number) in numbers.into_iter().chain([("--shrink", arguments.shrink)]) {
        if let Some(number) = number {
            command.args([name, &number.to_string()]);
        }
    }
    command.args(arguments.shape.words());
    if as_is {
        command.arg("--as-is");
    }
    command.output().map_err(|error| format!("cannot start the rounds: {error}"))
}
