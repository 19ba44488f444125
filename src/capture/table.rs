//! Every intercepted function, by name, and what is done about it.
//!
//! Each name has a detour of its own that knows the real function of exactly that name. Variadic functions have
//! detours with all the arguments that they may take: on x86-64 and aarch64 these are passed alike.

use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_ulong, c_void};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use libc::{
    AT_FDCWD, FILE, O_CREAT, O_TRUNC, O_WRONLY, dev_t, gid_t, iovec, mode_t, timespec, timeval, uid_t,
};

use super::data::Asked;
use super::uring::{self, Ring};
use super::{asynchronous, attributes, data, ioctl, loader, mapping, names, size, stdio, syscall};
use crate::tracker::Marks;

/// An intercepted function.
#[derive(Debug)]
pub struct Hook {
    /// Its name.
    pub name: &'static CStr,
    detour: *const (),
    real: &'static Real,
}

/// A real function.
#[derive(Debug)]
struct Real {
    address: AtomicPtr<c_void>,
    /// The program sees it too, not only some of its libraries.
    is_global: AtomicBool,
}

impl Real {
    const fn new() -> Self {
        Real { address: AtomicPtr::new(std::ptr::null_mut()), is_global: AtomicBool::new(false) }
    }
}

// SAFETY: the pointer is a function's address.
unsafe impl Sync for Hook {}

impl Hook {
    /// The address that slots get.
    pub fn detour(&self) -> usize {
        self.detour as usize
    }

    /// The address of the real function; 0: it is not known.
    pub fn real(&self) -> usize {
        self.real.address.load(Ordering::Acquire) as usize
    }

    /// Looks the real function up as the program does. What was found before stays in force otherwise: calls may
    /// still be under way.
    pub fn resolve(&self) {
        let name = self.name.as_ptr();
        // SAFETY: NUL-terminated names.
        let found = unsafe {
            [
                libc::dlsym(libc::RTLD_DEFAULT, name),
                libc::dlsym(libc::RTLD_NEXT, name),
                // Old names that libc keeps for old programs only.
                libc::dlvsym(libc::RTLD_DEFAULT, name, OLDEST.as_ptr()),
            ]
        };
        let found = found.into_iter().find(|found| !found.is_null());
        self.real.is_global.store(found.is_some(), Ordering::Release);
        if let Some(found) = found {
            self.real.address.store(found, Ordering::Release);
        }
    }

    /// Looks a function up that only the libraries of the object `handle` define, or the program itself. False: it
    /// is not known.
    pub fn resolve_in(&self, handle: Option<*mut c_void>) -> bool {
        if self.real.is_global.load(Ordering::Acquire) {
            return true;
        }
        // SAFETY: an open handle of dlopen and a NUL-terminated name.
        let found =
            handle.map_or(std::ptr::null_mut(), |handle| unsafe { libc::dlsym(handle, self.name.as_ptr()) });
        if !found.is_null() {
            self.real.address.store(found, Ordering::Release);
        }
        !found.is_null()
    }
}

/// glibc's first version on this architecture.
#[cfg(target_arch = "x86_64")]
const OLDEST: &CStr = c"GLIBC_2.2.5";
#[cfg(target_arch = "aarch64")]
const OLDEST: &CStr = c"GLIBC_2.17";

/// The names of all intercepted functions.
pub fn intercepted() -> impl Iterator<Item = &'static str> {
    HOOKS.iter().filter_map(|hook| hook.name.to_str().ok())
}

macro_rules! hooks {
    ($([$($name:ident)+] $arguments:tt -> $result:ty { |$call:ident, $real:ident| $body:block })*) => {
        #[allow(non_upper_case_globals)]
        mod real {
            use super::Real;
            $($(pub static $name: Real = Real::new();)+)*
        }
        mod detour {
            use super::*;
            $($(detour!($name $arguments, $result, $call, $real, $body);)+)*
        }
        /// All of them.
        pub static HOOKS: &[Hook] = &[$($(Hook {
            name: name!($name),
            detour: detour::$name as *const (),
            real: &real::$name,
        },)+)*];
    };
}

macro_rules! name {
    ($name:ident) => {
        const {
            match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => c"",
            }
        }
    };
}

macro_rules! detour {
    ($name:ident ($($argument:ident: $type:ty),*), $result:ty, $call:ident, $real:ident, $body:block) => {
        #[allow(non_snake_case)]
        // "C-unwind": cancelling a thread in a system call unwinds through here. Nothing in a hook panics.
        pub unsafe extern "C-unwind" fn $name($($argument: $type),*) -> $result {
            let $call: &'static CStr = name!($name);
            let _ = $call;
            let $real = |$($argument: $type),*| -> $result {
                let address = real::$name.address.load(Ordering::Relaxed);
                // SAFETY: a slot gets our address only after the real function's has been stored, and that is a
                // function of this name, hence of this type; its arguments are those of the caller.
                unsafe {
                    let function: unsafe extern "C-unwind" fn($($type),*) -> $result =
                        std::mem::transmute(address);
                    function($($argument),*)
                }
            };
            // SAFETY: pointers are the caller's, who promises what the real function asks for.
            #[allow(unused_unsafe)]
            unsafe { $body }
        }
    };
}

hooks! {
    // ---- data ----
    [write __write] (fd: c_int, bytes: *const c_void, count: usize) -> isize {
        |call, real| { data::at_position(call, fd, Asked::Bytes(count), 0, || real(fd, bytes, count)) }
    }
    [pwrite pwrite64 __pwrite64] (fd: c_int, bytes: *const c_void, count: usize, offset: i64) -> isize {
        |call, real| { data::at(call, fd, offset, Asked::Bytes(count), 0, || real(fd, bytes, count, offset)) }
    }
    [writev] (fd: c_int, vector: *const iovec, count: c_int) -> isize {
        |call, real| { data::at_position(call, fd, Asked::Vector(vector, count), 0, || real(fd, vector, count)) }
    }
    [pwritev pwritev64] (fd: c_int, vector: *const iovec, count: c_int, offset: i64) -> isize {
        |call, real| { data::at(call, fd, offset, Asked::Vector(vector, count), 0, || real(fd, vector, count, offset)) }
    }
    [pwritev2 pwritev64v2] (fd: c_int, vector: *const iovec, count: c_int, offset: i64, flags: c_int) -> isize {
        |call, real| {
            data::at_or_position(call, fd, (offset != -1).then_some(offset), Asked::Vector(vector, count), flags, || {
                real(fd, vector, count, offset, flags)
            })
        }
    }
    [sendfile sendfile64] (to: c_int, from: c_int, offset: *mut i64, count: usize) -> isize {
        |call, real| { data::at_position(call, to, Asked::Bytes(count), 0, || real(to, from, offset, count)) }
    }
    [splice] (from: c_int, from_offset: *mut i64, to: c_int, to_offset: *mut i64, count: usize, flags: c_uint)
        -> isize
    {
        |call, real| {
            data::splice(call, from, to, to_offset, count, flags, |flags| {
                real(from, from_offset, to, to_offset, count, flags)
            })
        }
    }
    [copy_file_range] (from: c_int, from_offset: *mut i64, to: c_int, to_offset: *mut i64, count: usize,
        flags: c_uint) -> isize
    {
        |call, real| {
            data::at_or_position(call, to, to_offset.as_ref().copied(), Asked::Bytes(count), 0, || {
                real(from, from_offset, to, to_offset, count, flags)
            })
        }
    }

    // ---- sizes and holes ----
    [ftruncate ftruncate64] (fd: c_int, length: i64) -> c_int {
        |call, real| { size::ftruncate(call, fd, length, || real(fd, length)) }
    }
    [truncate truncate64] (path: *const c_char, length: i64) -> c_int {
        |call, real| { size::truncate(call, path, length, || real(path, length)) }
    }
    [fallocate fallocate64] (fd: c_int, mode: c_int, offset: i64, length: i64) -> c_int {
        |call, real| { size::fallocate(call, fd, mode, offset, length, || real(fd, mode, offset, length)) }
    }
    [posix_fallocate posix_fallocate64] (fd: c_int, offset: i64, length: i64) -> c_int {
        |call, real| { size::fallocate(call, fd, 0, offset, length, || real(fd, offset, length)) }
    }

    // ---- names ----
    [open open64 __open __open64] (path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        |call, real| { names::open(call, AT_FDCWD, path, flags, || real(path, flags, mode)) }
    }
    [__open_2 __open64_2] (path: *const c_char, flags: c_int) -> c_int {
        |call, real| { names::open(call, AT_FDCWD, path, flags, || real(path, flags)) }
    }
    [openat openat64] (directory: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        |call, real| { names::open(call, directory, path, flags, || real(directory, path, flags, mode)) }
    }
    [__openat_2 __openat64_2] (directory: c_int, path: *const c_char, flags: c_int) -> c_int {
        |call, real| { names::open(call, directory, path, flags, || real(directory, path, flags)) }
    }
    [openat2] (directory: c_int, path: *const c_char, how: *const c_void, size: usize) -> c_int {
        |call, real| {
            let arguments = [directory as usize, path.expose_provenance(), how.expose_provenance(), size, 0, 0];
            syscall::run(call, libc::SYS_openat2, arguments.map(|argument| argument as c_long), |_| {
                real(directory, path, how, size).into()
            }) as c_int
        }
    }
    [creat creat64] (path: *const c_char, mode: mode_t) -> c_int {
        |call, real| {
            names::open(call, AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, || real(path, mode))
        }
    }
    [open_by_handle_at] (mount: c_int, handle: *mut c_void, flags: c_int) -> c_int {
        |call, real| { names::open_by_handle(call, flags, || real(mount, handle, flags)) }
    }
    [mkstemp mkstemp64] (template: *mut c_char) -> c_int {
        |call, real| { names::make_temporary_file(call, template, || real(template)) }
    }
    [mkostemp mkostemp64 mkstemps mkstemps64] (template: *mut c_char, extra: c_int) -> c_int {
        |call, real| { names::make_temporary_file(call, template, || real(template, extra)) }
    }
    [mkostemps mkostemps64] (template: *mut c_char, suffix: c_int, flags: c_int) -> c_int {
        |call, real| { names::make_temporary_file(call, template, || real(template, suffix, flags)) }
    }
    [mkdtemp] (template: *mut c_char) -> *mut c_char {
        |call, real| { names::make_temporary_directory(call, template, || real(template)) }
    }
    [rename] (from: *const c_char, to: *const c_char) -> c_int {
        |call, real| { names::rename(call, (AT_FDCWD, from), (AT_FDCWD, to), 0, || real(from, to)) }
    }
    [renameat] (from_at: c_int, from: *const c_char, to_at: c_int, to: *const c_char) -> c_int {
        |call, real| { names::rename(call, (from_at, from), (to_at, to), 0, || real(from_at, from, to_at, to)) }
    }
    [renameat2] (from_at: c_int, from: *const c_char, to_at: c_int, to: *const c_char, flags: c_uint) -> c_int {
        |call, real| {
            names::rename(call, (from_at, from), (to_at, to), flags, || real(from_at, from, to_at, to, flags))
        }
    }
    [link] (from: *const c_char, to: *const c_char) -> c_int {
        |call, real| { names::link(call, (AT_FDCWD, from), (AT_FDCWD, to), 0, || real(from, to)) }
    }
    [linkat] (from_at: c_int, from: *const c_char, to_at: c_int, to: *const c_char, flags: c_int) -> c_int {
        |call, real| {
            names::link(call, (from_at, from), (to_at, to), flags, || real(from_at, from, to_at, to, flags))
        }
    }
    [symlink] (target: *const c_char, path: *const c_char) -> c_int {
        |call, real| { names::symlink(call, AT_FDCWD, path, || real(target, path)) }
    }
    [symlinkat] (target: *const c_char, directory: c_int, path: *const c_char) -> c_int {
        |call, real| { names::symlink(call, directory, path, || real(target, directory, path)) }
    }
    [unlink rmdir remove] (path: *const c_char) -> c_int {
        |call, real| { names::unlink(call, AT_FDCWD, path, || real(path)) }
    }
    [unlinkat] (directory: c_int, path: *const c_char, flags: c_int) -> c_int {
        |call, real| { names::unlink(call, directory, path, || real(directory, path, flags)) }
    }
    [mkdir mkfifo] (path: *const c_char, mode: mode_t) -> c_int {
        |call, real| { names::make(call, AT_FDCWD, path, || real(path, mode)) }
    }
    [mkdirat mkfifoat] (directory: c_int, path: *const c_char, mode: mode_t) -> c_int {
        |call, real| { names::make(call, directory, path, || real(directory, path, mode)) }
    }
    [mknod] (path: *const c_char, mode: mode_t, device: dev_t) -> c_int {
        |call, real| { names::make(call, AT_FDCWD, path, || real(path, mode, device)) }
    }
    [mknodat] (directory: c_int, path: *const c_char, mode: mode_t, device: dev_t) -> c_int {
        |call, real| { names::make(call, directory, path, || real(directory, path, mode, device)) }
    }
    [__xmknod] (version: c_int, path: *const c_char, mode: mode_t, device: *mut dev_t) -> c_int {
        |call, real| { names::make(call, AT_FDCWD, path, || real(version, path, mode, device)) }
    }
    [__xmknodat] (version: c_int, directory: c_int, path: *const c_char, mode: mode_t, device: *mut dev_t) -> c_int {
        |call, real| { names::make(call, directory, path, || real(version, directory, path, mode, device)) }
    }

    // ---- attributes ----
    [chmod lchmod] (path: *const c_char, mode: mode_t) -> c_int {
        |call, real| {
            attributes::at(call, AT_FDCWD, path, 0, Marks::ATTRIBUTES, || real(path, mode))
        }
    }
    [fchmod] (fd: c_int, mode: mode_t) -> c_int {
        |call, real| { attributes::by_fd(call, fd, Marks::ATTRIBUTES, || real(fd, mode)) }
    }
    [fchmodat] (directory: c_int, path: *const c_char, mode: mode_t, flags: c_int) -> c_int {
        |call, real| {
            attributes::at(call, directory, path, flags, Marks::ATTRIBUTES, || real(directory, path, mode, flags))
        }
    }
    [chown] (path: *const c_char, owner: uid_t, group: gid_t) -> c_int {
        |call, real| {
            attributes::at(call, AT_FDCWD, path, 0, Marks::ATTRIBUTES, || real(path, owner, group))
        }
    }
    [lchown] (path: *const c_char, owner: uid_t, group: gid_t) -> c_int {
        |call, real| {
            attributes::at(call, AT_FDCWD, path, libc::AT_SYMLINK_NOFOLLOW, Marks::ATTRIBUTES, || {
                real(path, owner, group)
            })
        }
    }
    [fchown] (fd: c_int, owner: uid_t, group: gid_t) -> c_int {
        |call, real| { attributes::by_fd(call, fd, Marks::ATTRIBUTES, || real(fd, owner, group)) }
    }
    [fchownat] (directory: c_int, path: *const c_char, owner: uid_t, group: gid_t, flags: c_int) -> c_int {
        |call, real| {
            attributes::at(call, directory, path, flags, Marks::ATTRIBUTES, || {
                real(directory, path, owner, group, flags)
            })
        }
    }
    [utime] (path: *const c_char, times: *const libc::utimbuf) -> c_int {
        |call, real| {
            attributes::at(call, AT_FDCWD, path, 0, Marks::ATTRIBUTES, || real(path, times))
        }
    }
    [utimes] (path: *const c_char, times: *const timeval) -> c_int {
        |call, real| {
            attributes::at(call, AT_FDCWD, path, 0, Marks::ATTRIBUTES, || real(path, times))
        }
    }
    [lutimes] (path: *const c_char, times: *const timeval) -> c_int {
        |call, real| {
            attributes::at(call, AT_FDCWD, path, libc::AT_SYMLINK_NOFOLLOW, Marks::ATTRIBUTES, || {
                real(path, times)
            })
        }
    }
    [futimes] (fd: c_int, times: *const timeval) -> c_int {
        |call, real| { attributes::by_fd(call, fd, Marks::ATTRIBUTES, || real(fd, times)) }
    }
    [futimens] (fd: c_int, times: *const timespec) -> c_int {
        |call, real| { attributes::by_fd(call, fd, Marks::ATTRIBUTES, || real(fd, times)) }
    }
    [futimesat] (directory: c_int, path: *const c_char, times: *const timeval) -> c_int {
        |call, real| {
            attributes::at(call, directory, path, 0, Marks::ATTRIBUTES, || real(directory, path, times))
        }
    }
    [utimensat] (directory: c_int, path: *const c_char, times: *const timespec, flags: c_int) -> c_int {
        |call, real| {
            attributes::at(call, directory, path, flags, Marks::ATTRIBUTES, || {
                real(directory, path, times, flags)
            })
        }
    }
    [setxattr] (path: *const c_char, name: *const c_char, value: *const c_void, size: usize, flags: c_int) -> c_int {
        |call, real| {
            attributes::at(call, AT_FDCWD, path, 0, Marks::XATTRS, || real(path, name, value, size, flags))
        }
    }
    [lsetxattr] (path: *const c_char, name: *const c_char, value: *const c_void, size: usize, flags: c_int) -> c_int {
        |call, real| {
            attributes::at(call, AT_FDCWD, path, libc::AT_SYMLINK_NOFOLLOW, Marks::XATTRS, || {
                real(path, name, value, size, flags)
            })
        }
    }
    [fsetxattr] (fd: c_int, name: *const c_char, value: *const c_void, size: usize, flags: c_int) -> c_int {
        |call, real| { attributes::by_fd(call, fd, Marks::XATTRS, || real(fd, name, value, size, flags)) }
    }
    [removexattr] (path: *const c_char, name: *const c_char) -> c_int {
        |call, real| { attributes::at(call, AT_FDCWD, path, 0, Marks::XATTRS, || real(path, name)) }
    }
    [lremovexattr] (path: *const c_char, name: *const c_char) -> c_int {
        |call, real| {
            attributes::at(call, AT_FDCWD, path, libc::AT_SYMLINK_NOFOLLOW, Marks::XATTRS, || real(path, name))
        }
    }
    [fremovexattr] (fd: c_int, name: *const c_char) -> c_int {
        |call, real| { attributes::by_fd(call, fd, Marks::XATTRS, || real(fd, name)) }
    }

    // ---- streams and mappings ----
    [fopen fopen64] (path: *const c_char, mode: *const c_char) -> *mut FILE {
        |call, real| { stdio::fopen(call, path, mode, || real(path, mode)) }
    }
    [fdopen] (fd: c_int, mode: *const c_char) -> *mut FILE {
        |call, real| { stdio::fdopen(mode, || real(fd, mode)) }
    }
    [freopen freopen64] (path: *const c_char, mode: *const c_char, stream: *mut FILE) -> *mut FILE {
        |call, real| {
            if path.is_null() {
                stdio::fdopen(mode, || real(path, mode, stream))
            } else {
                stdio::fopen(call, path, mode, || real(path, mode, stream))
            }
        }
    }
    [fwrite fwrite_unlocked] (data: *const c_void, size: usize, count: usize, stream: *mut FILE) -> usize {
        |call, real| { stdio::write_out(call, stream, || real(data, size, count, stream)) }
    }
    [fputs fputs_unlocked] (text: *const c_char, stream: *mut FILE) -> c_int {
        |call, real| { stdio::write_out(call, stream, || real(text, stream)) }
    }
    [fputc fputc_unlocked putc putc_unlocked _IO_putc] (byte: c_int, stream: *mut FILE) -> c_int {
        |call, real| { stdio::write_out(call, stream, || real(byte, stream)) }
    }
    // A va_list is passed by its address on x86-64 and aarch64.
    [vfprintf] (stream: *mut FILE, format: *const c_char, list: *mut c_void) -> c_int {
        |call, real| { stdio::write_out(call, stream, || real(stream, format, list)) }
    }
    [__vfprintf_chk] (stream: *mut FILE, flag: c_int, format: *const c_char, list: *mut c_void) -> c_int {
        |call, real| { stdio::write_out(call, stream, || real(stream, flag, format, list)) }
    }
    [fflush fflush_unlocked fclose] (stream: *mut FILE) -> c_int {
        |call, real| { stdio::write_out(call, stream, || real(stream)) }
    }
    [fseek fseeko fseeko64] (stream: *mut FILE, offset: i64, whence: c_int) -> c_int {
        |call, real| { stdio::write_out(call, stream, || real(stream, offset, whence)) }
    }
    [fsetpos fsetpos64] (stream: *mut FILE, position: *const c_void) -> c_int {
        |call, real| { stdio::write_out(call, stream, || real(stream, position)) }
    }
    [rewind] (stream: *mut FILE) -> () {
        |call, real| { stdio::write_out(call, stream, || real(stream)) }
    }
    [tmpfile tmpfile64] () -> *mut FILE {
        |call, real| { stdio::tmpfile(call, real) }
    }
    [mmap mmap64] (at: *mut c_void, length: usize, protection: c_int, flags: c_int, fd: c_int, offset: i64)
        -> *mut c_void
    {
        |call, real| {
            mapping::mmap(length, protection, flags, fd, || real(at, length, protection, flags, fd, offset))
        }
    }
    [mprotect] (at: *mut c_void, length: usize, protection: c_int) -> c_int {
        |call, real| { mapping::mprotect(at as usize, length, protection, || real(at, length, protection)) }
    }
    [mremap] (at: *mut c_void, length: usize, new_length: usize, flags: c_int, new: *mut c_void) -> *mut c_void {
        |call, real| { mapping::mremap(at as usize, length, || real(at, length, new_length, flags, new)) }
    }
    [ioctl] (fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
        |call, real| { ioctl::ioctl(call, fd, request, argument, || real(fd, request, argument)) }
    }

    // ---- asynchronous ----
    [io_submit] (context: usize, count: c_long, requests: *mut *const c_void) -> c_int {
        |call, real| {
            asynchronous::submit(call, context, count, requests, || real(context, count, requests).into()) as c_int
        }
    }
    [io_getevents] (context: usize, least: c_long, most: c_long, events: *mut c_void, timeout: *mut timespec)
        -> c_int
    {
        |call, real| {
            asynchronous::get_events(call, context, || real(context, least, most, events, timeout).into()) as c_int
        }
    }
    [io_pgetevents] (context: usize, least: c_long, most: c_long, events: *mut c_void, timeout: *mut timespec,
        signals: *mut libc::sigset_t) -> c_int
    {
        |call, real| {
            asynchronous::get_events(call, context, || {
                real(context, least, most, events, timeout, signals).into()
            }) as c_int
        }
    }
    [io_destroy io_queue_release] (context: usize) -> c_int {
        |call, real| { asynchronous::destroy(call, context, || real(context).into()) as c_int }
    }
    [aio_write aio_write64] (request: *mut c_void) -> c_int {
        |call, real| { asynchronous::posix(|| real(request)) }
    }
    [lio_listio lio_listio64] (mode: c_int, list: *const *mut c_void, count: c_int, event: *mut c_void) -> c_int {
        |call, real| { asynchronous::posix(|| real(mode, list, count, event)) }
    }
    [io_uring_submit io_uring_submit_and_get_events] (ring: *mut Ring) -> c_int {
        |call, real| { uring::submit(call, ring, || real(ring)) }
    }
    [io_uring_submit_and_wait] (ring: *mut Ring, count: c_uint) -> c_int {
        |call, real| { uring::submit_and_wait(call, ring, submit_only(ring), || real(ring, count)) }
    }
    [io_uring_submit_and_wait_timeout] (ring: *mut Ring, event: *mut *mut c_void, count: c_uint,
        timeout: *mut c_void, signals: *mut libc::sigset_t) -> c_int
    {
        |call, real| {
            uring::submit_and_wait(call, ring, submit_only(ring), || real(ring, event, count, timeout, signals))
        }
    }
    [io_uring_submit_and_wait_min_timeout] (ring: *mut Ring, event: *mut *mut c_void, count: c_uint,
        timeout: *mut c_void, least: c_uint, signals: *mut libc::sigset_t) -> c_int
    {
        |call, real| {
            uring::submit_and_wait(call, ring, submit_only(ring), || {
                real(ring, event, count, timeout, least, signals)
            })
        }
    }
    [io_uring_submit_and_wait_reg] (ring: *mut Ring, event: *mut *mut c_void, count: c_uint, index: c_int)
        -> c_int
    {
        |call, real| {
            uring::submit_and_wait(call, ring, submit_only(ring), || real(ring, event, count, index))
        }
    }
    [io_uring_wait_cqes] (ring: *mut Ring, event: *mut *mut c_void, count: c_uint, timeout: *mut c_void,
        signals: *mut libc::sigset_t) -> c_int
    {
        |call, real| {
            uring::wait(call, ring, submit_only(ring), || real(ring, event, count, timeout, signals))
        }
    }
    [io_uring_wait_cqe_timeout] (ring: *mut Ring, event: *mut *mut c_void, timeout: *mut c_void) -> c_int {
        |call, real| { uring::wait(call, ring, submit_only(ring), || real(ring, event, timeout)) }
    }
    [io_uring_enter] (fd: c_uint, submits: c_uint, least: c_uint, flags: c_uint, signals: *mut libc::sigset_t)
        -> c_int
    {
        |call, real| { uring::enter(call, submits, || real(fd, submits, least, flags, signals)) }
    }
    [io_uring_enter2] (fd: c_uint, submits: c_uint, least: c_uint, flags: c_uint, argument: *mut c_void,
        size: usize) -> c_int
    {
        |call, real| { uring::enter(call, submits, || real(fd, submits, least, flags, argument, size)) }
    }
    [io_uring_queue_exit] (ring: *mut Ring) -> () {
        |call, real| { uring::exit(call, ring, || real(ring)) }
    }
    [io_uring_resize_rings] (ring: *mut Ring, parameters: *mut c_void) -> c_int {
        |call, real| { uring::resize(|| real(ring, parameters)) }
    }

    // ---- system calls by number, the loader ----
    [syscall] (number: c_long, a: c_long, b: c_long, c: c_long, d: c_long, e: c_long, f: c_long) -> c_long {
        |call, real| {
            if syscall::is_harmless(number) {
                real(number, a, b, c, d, e, f)
            } else {
                syscall::run(call, number, [a, b, c, d, e, f], |[a, b, c, d, e, f]| real(number, a, b, c, d, e, f))
            }
        }
    }
    [dlopen] (path: *const c_char, flags: c_int) -> *mut c_void {
        |call, real| { loader::opened(call, path, |path| real(path, flags)) }
    }
    [dlmopen] (namespace: c_long, path: *const c_char, flags: c_int) -> *mut c_void {
        |call, real| { loader::opened_in(call, namespace, path, |path| real(namespace, path, flags)) }
    }
}

/// liburing's own submission on `ring`, for calls that submit and then wait. `None`: it is not known.
fn submit_only(ring: *mut Ring) -> Option<impl FnOnce() -> c_int> {
    let address = real::io_uring_submit.address.load(Ordering::Acquire);
    (!address.is_null()).then_some(move || {
        // SAFETY: the address of the function of this name, and the caller's ring.
        unsafe {
            let function: unsafe extern "C-unwind" fn(*mut Ring) -> c_int = std::mem::transmute(address);
            function(ring)
        }
    })
}
