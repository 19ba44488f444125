//! The allocator of the program, between it and libc's: it notices what hooks allocate, which must be nothing, and can
//! refuse memory to the library.
//!
//! Whoever asks is told by the address that the call returns to, so this works where a function can have no code before
//! its own: on x86-64.

#![cfg_attr(feature = "sanitized", allow(dead_code))]

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Where the library's code lies.
static CODE: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];
static NOTICED: AtomicUsize = AtomicUsize::new(0);
/// Requests of the library of no fewer bytes than this are counted, and refused when none is left.
static LARGE: AtomicUsize = AtomicUsize::new(usize::MAX);
static LEFT: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

/// Tells where the library lies that was loaded from here.
pub fn know(library: &Path) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let name = library.canonicalize().unwrap_or_default().display().to_string();
    for line in maps.lines().filter(|line| line.ends_with(&name) && line.contains(" r-xp ")) {
        let ends = line.split(' ').next().and_then(|range| range.split_once('-'));
        let Some((from, to)) = ends else { continue };
        for (end, text) in CODE.iter().zip([from, to]) {
            end.store(usize::from_str_radix(text, 16).unwrap_or(0), Ordering::SeqCst);
        }
    }
}

/// From now on nothing that the library allocates on this thread goes unnoticed: what it does here it does in hooks.
pub fn watch() {
    // Nothing would ever be noticed without.
    assert!(CODE[1].load(Ordering::SeqCst) > CODE[0].load(Ordering::SeqCst), "where is the library?");
    WATCHED.set(true);
}

/// Does what may allocate.
pub fn unwatched<T>(work: impl FnOnce() -> T) -> T {
    let before = WATCHED.replace(false);
    let result = work();
    WATCHED.set(before);
    result
}

/// Bytes that hooks have allocated since this was asked last.
pub fn noticed() -> usize {
    NOTICED.swap(0, Ordering::SeqCst)
}

/// Serves so many requests of the library for `large` bytes or more, and none after them.
pub fn refuse_after(count: u64, large: usize) {
    REFUSED.store(false, Ordering::SeqCst);
    LEFT.store(count, Ordering::SeqCst);
    LARGE.store(large, Ordering::SeqCst);
}

/// Serves everything again; whether anything was refused.
pub fn serve() -> bool {
    LARGE.store(usize::MAX, Ordering::SeqCst);
    REFUSED.load(Ordering::SeqCst)
}

/// Whether the request is served. Allocates nothing itself.
fn serves(size: usize, caller: usize) -> bool {
    let code = CODE[0].load(Ordering::Relaxed)..CODE[1].load(Ordering::Relaxed);
    if !code.contains(&caller) {
        return true;
    }
    if WATCHED.get() {
        NOTICED.fetch_add(size.max(1), Ordering::SeqCst);
        return true;
    }
    if size < LARGE.load(Ordering::Relaxed) {
        return true;
    }
    let served = LEFT.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
    if !served {
        REFUSED.store(true, Ordering::SeqCst);
    }
    served
}

unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(old: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(alignment: usize, size: usize) -> *mut c_void;
}

unsafe extern "C" fn malloc_for(size: usize, caller: usize) -> *mut c_void {
    // SAFETY: any size will do.
    if serves(size, caller) { unsafe { __libc_malloc(size) } } else { std::ptr::null_mut() }
}

unsafe extern "C" fn calloc_for(count: usize, size: usize, caller: usize) -> *mut c_void {
    let serves = serves(count.saturating_mul(size), caller);
    // SAFETY: any sizes will do.
    if serves { unsafe { __libc_calloc(count, size) } } else { std::ptr::null_mut() }
}

unsafe extern "C" fn realloc_for(old: *mut c_void, size: usize, caller: usize) -> *mut c_void {
    // SAFETY: as the caller of realloc promised.
    if serves(size, caller) { unsafe { __libc_realloc(old, size) } } else { std::ptr::null_mut() }
}

unsafe extern "C" fn memalign_for(
    to: *mut *mut c_void,
    alignment: usize,
    size: usize,
    caller: usize,
) -> c_int {
    if !serves(size, caller) {
        return libc::ENOMEM;
    }
    // SAFETY: as the caller of posix_memalign promised.
    let memory = unsafe { __libc_memalign(alignment, size) };
    if memory.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: as above.
    unsafe { *to = memory };
    0
}

/// `name` of the C library, with the address that it returns to in the register of one argument more.
macro_rules! told_of_its_caller {
    ($($name:ident ($register:literal) is $body:ident;)*) => { $(
        #[doc = concat!("`", stringify!($name), "` of the C library.")]
        ///
        /// # Safety
        /// As there.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                concat!("mov ", $register, ", [rsp]"),
                "jmp {}",
                sym $body,
            )
        }
    )* };
}

#[cfg(not(feature = "sanitized"))]
told_of_its_caller! {
    malloc("rsi") is malloc_for;
    calloc("rdx") is calloc_for;
    realloc("rdx") is realloc_for;
    posix_memalign("rcx") is memalign_for;
}
