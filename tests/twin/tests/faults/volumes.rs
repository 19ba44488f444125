//! File systems that fill up, cannot be written any more, or fail after a write was acknowledged.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use faulty::{Fault, Op};
use twin::library::c_string;

use crate::program::PATIENCE;
use crate::{Bench, failed, stride};

fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program}: {status}");
}

/// A mounted file system, with a directory for the image in it.
struct Volume(PathBuf);

impl Volume {
    fn tmpfs(bench: &Bench, options: &str) -> Volume {
        let at = bench.scratch.0.join("tmpfs");
        fs::create_dir_all(&at).unwrap();
        run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", at.to_str().unwrap()]);
        fs::create_dir(at.join("image")).unwrap();
        Volume(at)
    }

    /// ext4 in this file.
    fn ext4(bench: &Bench, file: &Path) -> Volume {
        let at = bench.scratch.0.join("ext4");
        fs::create_dir_all(&at).unwrap();
        let found = Command::new("losetup").args(["--find", "--show"]).arg(file).output().unwrap();
        let device = String::from_utf8(found.stdout).unwrap();
        let name = device.trim().strip_prefix("/dev/").expect("a loop device");
        // A write to the device is one write to the file: the driver takes one that was cut short for a whole one.
        fs::write(format!("/sys/block/{name}/queue/max_sectors_kb"), "256").unwrap();
        run("mount", &[device.trim(), at.to_str().unwrap()]);
        // As soon as it is not mounted any more.
        run("losetup", &["--detach", device.trim()]);
        let _ = fs::create_dir(at.join("image"));
        Volume(at)
    }

    fn image(&self) -> PathBuf {
        self.0.join("image")
    }

    fn sync(&self) -> i32 {
        let directory = File::open(&self.0).unwrap();
        // SAFETY: a descriptor.
        unsafe { libc::syncfs(directory.as_raw_fd()) }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let path = c_string(&self.0);
        // SAFETY: a C string. Detached only when somebody still uses it.
        unsafe {
            if libc::umount2(path.as_ptr(), 0) != 0 {
                libc::umount2(path.as_ptr(), libc::MNT_DETACH);
            }
        }
    }
}

/// Full after each number of bytes, and of files, until a backup fits.
#[test]
fn fills_up() {
    let Some(mut bench) = Bench::new() else { return };
    for (what, unit, step) in [("size", "k", 16 * stride(12)), ("nr_inodes", "", stride(2))] {
        let mut passed = 0;
        for number in (3..).step_by(step as usize) {
            let options = format!("{what}={number}{unit}");
            let volume = Volume::tmpfs(&bench, &options);
            let outcome = bench.program.back_up(&volume.image());
            if outcome.value == 0 {
                bench.same(&volume.image(), &options);
                passed = number;
                break;
            }
            failed(&outcome, libc::ENOSPC, &volume.image(), &format!("{options}: {outcome:?}"));
            drop(volume);
            bench.recovers(&options);
        }
        println!("{what}: passed with {passed}{unit}, step {step}");
        assert!(passed > 3 + step, "nothing was too small");
    }
}

#[test]
fn read_only_on_the_way() {
    let Some(mut bench) = Bench::new() else { return };
    let volume = Volume::tmpfs(&bench, "size=32m");
    bench.program.begin_and_stop(&volume.image());
    run("mount", &["-o", "remount,ro", volume.0.to_str().unwrap()]);
    bench.program.go_on();
    let outcome = bench.program.outcome_within(PATIENCE).unwrap();
    failed(&outcome, libc::EROFS, &volume.image(), &format!("{outcome:?}"));
    drop(volume);
    bench.recovers("a read-only remount");
}

/// A disk of which write-back fails, for a moment, after everything was copied; somebody else is told first.
#[test]
fn write_back_fails() {
    let Some(mut bench) = Bench::new() else { return };
    let faulty = bench.mount();
    let disk = faulty.path().join("image/disk");
    File::create(&disk).unwrap().set_len(32 << 20).unwrap();
    run("mkfs.ext4", &["-q", "-O", "^has_journal", "-b", "4096", disk.to_str().unwrap()]);
    let volume = Volume::ext4(&bench, &disk);
    bench.program.begin_and_stop(&volume.image());
    faulty.arm(Op::Write, Fault::Fails(libc::EIO));
    // What the backup has written may be on the disk already.
    fs::write(volume.0.join("more"), [1; 4096]).unwrap();
    assert_eq!(volume.sync(), -1, "this disk cannot be written");
    faulty.release();
    assert_eq!(volume.sync(), 0, "whoever comes later is told nothing");
    bench.program.go_on();
    let outcome = bench.program.outcome_within(PATIENCE).unwrap();
    failed(&outcome, libc::EIO, &volume.image(), &format!("{outcome:?}"));
    drop(volume);
    bench.recovers("failed write-back");
}

/// Each write that gets to the disk fails once: what a backup that succeeds has left on it is right.
#[test]
fn every_write_to_the_disk_fails() {
    let Some(mut bench) = Bench::new() else { return };
    let (step, mut swept, mut n) = (stride(5), 0, 1);
    loop {
        let faulty = bench.mount();
        let disk = faulty.path().join("image/disk");
        File::create(&disk).unwrap().set_len(32 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-O", "^has_journal", "-b", "4096", disk.to_str().unwrap()]);
        let volume = Volume::ext4(&bench, &disk);
        assert_eq!(volume.sync(), 0);
        faulty.arm_kind_nth(Op::Write, n, Fault::Fails(libc::EIO));
        let outcome = bench.program.back_up(&volume.image());
        let struck = faulty.struck();
        let what = format!("write {n}, {struck:?}: {outcome:?}");
        faulty.release();
        if outcome.value != 0 {
            failed(&outcome, libc::EIO, &volume.image(), &what);
        }
        drop(volume);
        if outcome.value == 0 {
            // As the disk has it.
            let volume = Volume::ext4(&bench, &disk);
            bench.same(&volume.image(), &what);
        }
        drop(faulty);
        bench.recovers(&what);
        if struck.is_none() {
            break;
        }
        swept += 1;
        n += step;
    }
    println!("disk: {swept} writes of {}", n - 1);
    assert!(swept > 2);
}
