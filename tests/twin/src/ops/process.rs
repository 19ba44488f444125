//! Children, and objects loaded late.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Operation, op, some, zero};
use crate::library::c_string;
use crate::rng::Rng;
use crate::sys::{self, Outcome, check, written};
use crate::worker::Worker;
use crate::world::Kind;

/// A child that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a child ends that found the file system full.
const NO_ROOM: c_int = 2;

/// See [`super::Table`].
pub const OPERATIONS: &[Operation] = &[
    op("fork", 1, fork),
    op("posix_spawn", 1, spawn),
    op("dlopen (pwrite)", 1, |w, r| {
        let held = w.file(r)?;
        let at = w.extent(r, held);
        let data = w.fill(at.length);
        late(w, r, c"late_pwrite", |function| {
            type Pwrite = unsafe extern "C" fn(c_int, sys::Address, usize, i64) -> isize;
            // SAFETY: the function of this name has this type.
            let call = unsafe { std::mem::transmute::<*mut c_void, Pwrite>(function) };
            // SAFETY: as pwrite.
            some(written(unsafe { call(held.fd, data, at.length, at.offset) })?)
        })
    }),
    op("dlmopen (pwrite)", 1, |w, r| {
        let held = w.file(r)?;
        let at = w.extent(r, held);
        let data = w.fill(at.length);
        let open = |path: &CStr| {
            // SAFETY: a C string; the object has no constructor.
            unsafe { libc::dlmopen(libc::LM_ID_BASE, path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) }
        };
        late_by(w, r, open, c"late_pwrite", |function| {
            type Pwrite = unsafe extern "C" fn(c_int, sys::Address, usize, i64) -> isize;
            // SAFETY: the function of this name has this type.
            let call = unsafe { std::mem::transmute::<*mut c_void, Pwrite>(function) };
            // SAFETY: as pwrite.
            some(written(unsafe { call(held.fd, data, at.length, at.offset) })?)
        })
    }),
    op("dlopen (rename)", 1, |w, r| {
        let (from, to) = (w.shared.world.path(r, Kind::File), w.shared.world.path(r, Kind::File));
        late(w, r, c"late_rename", |function| {
            type Rename = unsafe extern "C" fn(*const c_char, *const c_char) -> c_int;
            // SAFETY: the function of this name has this type.
            let call = unsafe { std::mem::transmute::<*mut c_void, Rename>(function) };
            // SAFETY: C strings.
            zero(unsafe { call(from.as_ptr(), to.as_ptr()) })
        })
    }),
];

/// The child writes, to a file beside the sources: what other processes do to a source is theirs (P25).
fn fork(w: &mut Worker<'_>, rng: &mut Rng) -> Outcome {
    let path = CString::new(format!("outside/child{}", w.id)).expect("no NUL in it");
    let length = 1 + rng.below(20_000) as usize;
    let data = w.fill(length);
    // SAFETY: the child calls nothing but async-signal-safe functions and ends by _exit.
    let child = check(unsafe { libc::fork() })?;
    if child == 0 {
        let fd = sys::open(&path, libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC, 0o600);
        if fd < 0 && sys::errno() == libc::ENOSPC {
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(NO_ROOM) };
        }
        let done = sys::pwrite64(fd, data, length, 0);
        if done >= 0 && (done as usize) < length || done < 0 && sys::errno() == libc::ENOSPC {
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(NO_ROOM) };
        }
        let renamed = sys::rename(&path, &path);
        let fine = usize::try_from(done) == Ok(length) && renamed == 0 && sys::close(fd) == 0;
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(if fine { 0 } else { 1 }) };
    }
    reap(w, child, "a forked child")
}

fn spawn(w: &mut Worker<'_>, _: &mut Rng) -> Outcome {
    let mut child = 0;
    let arguments = [c"true".as_ptr().cast_mut(), std::ptr::null_mut()];
    let environment: [*mut c_char; 1] = [std::ptr::null_mut()];
    let (path, none) = (c"/bin/true", std::ptr::null());
    // SAFETY: C strings in arrays that end with NULL.
    let failed = unsafe {
        libc::posix_spawn(
            &mut child,
            path.as_ptr(),
            none,
            none.cast(),
            arguments.as_ptr(),
            environment.as_ptr(),
        )
    };
    if failed != 0 { Err(failed) } else { reap(w, child, "a spawned child") }
}

fn reap(w: &mut Worker<'_>, child: c_int, what: &str) -> Outcome {
    let begun = Instant::now();
    let mut status = 0;
    loop {
        // SAFETY: a child of ours and a place for its status.
        match unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } {
            0 if begun.elapsed() > PATIENCE => {
                w.shared.fail(format!("{what} hung for {PATIENCE:?} and was killed"));
                // SAFETY: a child of ours.
                unsafe { libc::kill(child, libc::SIGKILL) };
            }
            0 => std::thread::sleep(Duration::from_micros(200)),
            pid if pid == child && status == 0 => return Ok(()),
            pid if pid == child && status == NO_ROOM << 8 => return Err(libc::ENOSPC),
            pid => {
                w.shared.fail(format!("{what} ended badly: waitpid says {pid}, status {status:#x}"));
                return Err(sys::errno());
            }
        }
    }
}

/// Loads an object that was not there before, calls a function of it and unloads it.
fn late(
    w: &mut Worker<'_>,
    rng: &mut Rng,
    name: &CStr,
    call: impl FnOnce(*mut c_void) -> Outcome,
) -> Outcome {
    // SAFETY: a C string; the object has no constructor.
    let open = |path: &CStr| unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    late_by(w, rng, open, name, call)
}

fn late_by(
    w: &mut Worker<'_>,
    rng: &mut Rng,
    open: impl FnOnce(&CStr) -> *mut c_void,
    name: &CStr,
    call: impl FnOnce(*mut c_void) -> Outcome,
) -> Outcome {
    let path = c_string(rng.pick::<PathBuf>(&w.shared.late));
    // The loader allocates, and so may what intercepts a new object.
    let handle = crate::allocator::unwatched(|| open(&path));
    if handle.is_null() {
        return Err(libc::ENOENT);
    }
    // SAFETY: a handle of dlopen and a C string.
    let function = unsafe { libc::dlsym(handle, name.as_ptr()) };
    let outcome = if function.is_null() { Err(libc::ENOSYS) } else { call(function) };
    // SAFETY: the handle of the dlopen above, whose function is not used any more.
    unsafe { libc::dlclose(handle) };
    outcome
}
