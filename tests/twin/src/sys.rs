//! The calls under test, each imported by its own name.
//!
//! Every one has a function of its own that is never inlined: the compiler may otherwise read a GOT slot once and
//! use the address again later, when the slot has been given another; that would test the compiler.
//!
//! They are safe because they only read memory, which the kernel checks (a wrong address is EFAULT), or are given
//! references; and they work on descriptors by number, as the program under test does.

use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_ulong, c_void};

use libc::{FILE, iovec, timespec, timeval, utimbuf};

/// An address that is handed over as it is.
pub type Address = *const c_void;

/// How a value is given to a C function.
pub trait Arg {
    /// The C type.
    type Raw;
    /// The value as that.
    fn raw(self) -> Self::Raw;
}

macro_rules! plain {
    ($($type:ty),*) => { $(impl Arg for $type {
        type Raw = $type;
        fn raw(self) -> $type { self }
    })* };
}
plain!(c_int, c_uint, i64, u64, usize, Address, *mut c_void, *mut FILE, *const c_char);

impl Arg for &CStr {
    type Raw = *const c_char;
    fn raw(self) -> *const c_char {
        self.as_ptr()
    }
}

impl Arg for &mut [u8] {
    type Raw = *mut c_char;
    fn raw(self) -> *mut c_char {
        self.as_mut_ptr().cast()
    }
}

impl Arg for Option<&mut i64> {
    type Raw = *mut i64;
    fn raw(self) -> *mut i64 {
        self.map_or(std::ptr::null_mut(), std::ptr::from_mut)
    }
}

macro_rules! reference {
    ($($type:ty),*) => { $(impl Arg for &$type {
        type Raw = *const $type;
        fn raw(self) -> *const $type { self }
    })* };
}
reference!([iovec; 2], [timespec; 2], [timeval; 2], utimbuf, u64, Handle);

/// `struct file_handle`, large enough for any.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Handle {
    bytes: c_uint,
    kind: c_int,
    data: [u8; 128],
}

/// The handle of what a path leads to (its last name not followed), if the file system gives one that can be opened.
pub fn handle(path: &CStr) -> Outcome<Handle> {
    let mut handle = Handle { bytes: 128, kind: 0, data: [0; 128] };
    let mut mount: c_int = 0;
    // SAFETY: room for any handle, and for the number of a mount.
    check(unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            &raw mut handle,
            &raw mut mount,
            0,
        )
    })?;
    Ok(handle)
}

macro_rules! calls {
    ($(fn $name:ident($($arg:ident: $type:ty),* $(; $($more:ident: $extra:ty),*)?) -> $result:ty;)*) => {
        mod real {
            use super::*;
            unsafe extern "C" { $(pub fn $name($($arg: <$type as Arg>::Raw),* $(, $($more: $extra),*)?) -> $result;)* }
        }
        $(
            #[doc = concat!("`", stringify!($name), "` of the C library.")]
            #[inline(never)]
            #[allow(clippy::too_many_arguments)]
            pub fn $name($($arg: $type),* $(, $($more: $extra),*)?) -> $result {
                // SAFETY: see the module; strings and references come from Rust and outlive the call.
                unsafe { real::$name($($arg.raw()),* $(, $($more),*)?) }
            }
        )*
    };
}

calls! {
    fn write(fd: c_int, data: Address, length: usize) -> isize;
    fn pwrite(fd: c_int, data: Address, length: usize, offset: i64) -> isize;
    fn pwrite64(fd: c_int, data: Address, length: usize, offset: i64) -> isize;
    fn writev(fd: c_int, parts: &[iovec; 2], count: c_int) -> isize;
    fn pwritev(fd: c_int, parts: &[iovec; 2], count: c_int, offset: i64) -> isize;
    fn pwritev64(fd: c_int, parts: &[iovec; 2], count: c_int, offset: i64) -> isize;
    fn pwritev2(fd: c_int, parts: &[iovec; 2], count: c_int, offset: i64, flags: c_int) -> isize;
    fn pwritev64v2(fd: c_int, parts: &[iovec; 2], count: c_int, offset: i64, flags: c_int) -> isize;
    fn sendfile(to: c_int, from: c_int, offset: Option<&mut i64>, length: usize) -> isize;
    fn sendfile64(to: c_int, from: c_int, offset: Option<&mut i64>, length: usize) -> isize;
    fn splice(from: c_int, from_offset: Option<&mut i64>, to: c_int, to_offset: Option<&mut i64>, length: usize,
        flags: c_uint) -> isize;
    fn copy_file_range(from: c_int, from_offset: Option<&mut i64>, to: c_int, to_offset: Option<&mut i64>,
        length: usize, flags: c_uint) -> isize;

    fn __write(fd: c_int, data: Address, length: usize) -> isize;
    fn __pwrite64(fd: c_int, data: Address, length: usize, offset: i64) -> isize;

    fn ftruncate(fd: c_int, length: i64) -> c_int;
    fn ftruncate64(fd: c_int, length: i64) -> c_int;
    fn truncate(path: &CStr, length: i64) -> c_int;
    fn truncate64(path: &CStr, length: i64) -> c_int;
    fn fallocate(fd: c_int, mode: c_int, offset: i64, length: i64) -> c_int;
    fn fallocate64(fd: c_int, mode: c_int, offset: i64, length: i64) -> c_int;
    fn posix_fallocate(fd: c_int, offset: i64, length: i64) -> c_int;
    fn posix_fallocate64(fd: c_int, offset: i64, length: i64) -> c_int;

    fn creat(path: &CStr, mode: c_uint) -> c_int;
    fn creat64(path: &CStr, mode: c_uint) -> c_int;
    fn __open_2(path: &CStr, flags: c_int) -> c_int;
    fn __open64_2(path: &CStr, flags: c_int) -> c_int;
    fn __openat_2(directory: c_int, path: &CStr, flags: c_int) -> c_int;
    fn __openat64_2(directory: c_int, path: &CStr, flags: c_int) -> c_int;

    fn open_by_handle_at(mount: c_int, handle: &Handle, flags: c_int) -> c_int;

    fn rename(from: &CStr, to: &CStr) -> c_int;
    fn renameat(from_directory: c_int, from: &CStr, to_directory: c_int, to: &CStr) -> c_int;
    fn renameat2(from_directory: c_int, from: &CStr, to_directory: c_int, to: &CStr, flags: c_uint) -> c_int;
    fn link(from: &CStr, to: &CStr) -> c_int;
    fn linkat(from_directory: c_int, from: &CStr, to_directory: c_int, to: &CStr, flags: c_int) -> c_int;
    fn symlink(target: &CStr, path: &CStr) -> c_int;
    fn symlinkat(target: &CStr, directory: c_int, path: &CStr) -> c_int;
    fn unlink(path: &CStr) -> c_int;
    fn unlinkat(directory: c_int, path: &CStr, flags: c_int) -> c_int;
    fn remove(path: &CStr) -> c_int;
    fn mkdir(path: &CStr, mode: c_uint) -> c_int;
    fn mkdirat(directory: c_int, path: &CStr, mode: c_uint) -> c_int;
    fn rmdir(path: &CStr) -> c_int;
    fn mknod(path: &CStr, mode: c_uint, device: u64) -> c_int;
    fn mknodat(directory: c_int, path: &CStr, mode: c_uint, device: u64) -> c_int;
    fn __xmknod(version: c_int, path: &CStr, mode: c_uint, device: &u64) -> c_int;
    fn __xmknodat(version: c_int, directory: c_int, path: &CStr, mode: c_uint, device: &u64) -> c_int;
    fn mkfifo(path: &CStr, mode: c_uint) -> c_int;
    fn mkfifoat(directory: c_int, path: &CStr, mode: c_uint) -> c_int;
    fn mkstemp(template: &mut [u8]) -> c_int;
    fn mkstemp64(template: &mut [u8]) -> c_int;
    fn mkostemp(template: &mut [u8], flags: c_int) -> c_int;
    fn mkostemp64(template: &mut [u8], flags: c_int) -> c_int;
    fn mkstemps(template: &mut [u8], suffix: c_int) -> c_int;
    fn mkstemps64(template: &mut [u8], suffix: c_int) -> c_int;
    fn mkostemps(template: &mut [u8], suffix: c_int, flags: c_int) -> c_int;
    fn mkostemps64(template: &mut [u8], suffix: c_int, flags: c_int) -> c_int;
    fn mkdtemp(template: &mut [u8]) -> *mut c_char;

    fn chmod(path: &CStr, mode: c_uint) -> c_int;
    fn lchmod(path: &CStr, mode: c_uint) -> c_int;
    fn fchmod(fd: c_int, mode: c_uint) -> c_int;
    fn fchmodat(directory: c_int, path: &CStr, mode: c_uint, flags: c_int) -> c_int;
    fn chown(path: &CStr, user: c_uint, group: c_uint) -> c_int;
    fn fchown(fd: c_int, user: c_uint, group: c_uint) -> c_int;
    fn fchownat(directory: c_int, path: &CStr, user: c_uint, group: c_uint, flags: c_int) -> c_int;
    fn lchown(path: &CStr, user: c_uint, group: c_uint) -> c_int;
    fn setxattr(path: &CStr, name: &CStr, value: Address, length: usize, flags: c_int) -> c_int;
    fn lsetxattr(path: &CStr, name: &CStr, value: Address, length: usize, flags: c_int) -> c_int;
    fn fsetxattr(fd: c_int, name: &CStr, value: Address, length: usize, flags: c_int) -> c_int;
    fn removexattr(path: &CStr, name: &CStr) -> c_int;
    fn lremovexattr(path: &CStr, name: &CStr) -> c_int;
    fn fremovexattr(fd: c_int, name: &CStr) -> c_int;
    fn utime(path: &CStr, times: &utimbuf) -> c_int;
    fn utimes(path: &CStr, times: &[timeval; 2]) -> c_int;
    fn lutimes(path: &CStr, times: &[timeval; 2]) -> c_int;
    fn futimes(fd: c_int, times: &[timeval; 2]) -> c_int;
    fn futimesat(directory: c_int, path: &CStr, times: &[timeval; 2]) -> c_int;
    fn utimensat(directory: c_int, path: &CStr, times: &[timespec; 2], flags: c_int) -> c_int;
    fn futimens(fd: c_int, times: &[timespec; 2]) -> c_int;

    fn tmpfile() -> *mut FILE;
    fn tmpfile64() -> *mut FILE;
    fn fopen(path: &CStr, mode: &CStr) -> *mut FILE;
    fn fopen64(path: &CStr, mode: &CStr) -> *mut FILE;
    fn fdopen(fd: c_int, mode: &CStr) -> *mut FILE;
    fn freopen(path: &CStr, mode: &CStr, stream: *mut FILE) -> *mut FILE;
    fn freopen64(path: &CStr, mode: &CStr, stream: *mut FILE) -> *mut FILE;
    fn fwrite(data: Address, size: usize, count: usize, stream: *mut FILE) -> usize;
    fn fputs(text: &CStr, stream: *mut FILE) -> c_int;
    fn fputc(byte: c_int, stream: *mut FILE) -> c_int;
    fn fseek(stream: *mut FILE, offset: i64, whence: c_int) -> c_int;
    fn fseeko(stream: *mut FILE, offset: i64, whence: c_int) -> c_int;
    fn rewind(stream: *mut FILE) -> ();
    fn fflush(stream: *mut FILE) -> c_int;
    fn fclose(stream: *mut FILE) -> c_int;

    fn mmap(address: *mut c_void, length: usize, access: c_int, flags: c_int, fd: c_int, offset: i64) -> *mut c_void;
    fn mmap64(address: *mut c_void, length: usize, access: c_int, flags: c_int, fd: c_int, offset: i64)
        -> *mut c_void;
    fn mprotect(address: *mut c_void, length: usize, access: c_int) -> c_int;
    fn munmap(address: *mut c_void, length: usize) -> c_int;
}

mod variadic {
    use super::*;
    unsafe extern "C" {
        pub fn open(path: *const c_char, flags: c_int, ...) -> c_int;
        pub fn open64(path: *const c_char, flags: c_int, ...) -> c_int;
        pub fn __open(path: *const c_char, flags: c_int, ...) -> c_int;
        pub fn __open64(path: *const c_char, flags: c_int, ...) -> c_int;
        pub fn mremap(address: *mut c_void, length: usize, new: usize, flags: c_int, ...) -> *mut c_void;
        pub fn openat(directory: c_int, path: *const c_char, flags: c_int, ...) -> c_int;
        pub fn openat64(directory: c_int, path: *const c_char, flags: c_int, ...) -> c_int;
        pub fn syscall(number: c_long, ...) -> c_long;
        pub fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    }
}

macro_rules! variadic {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => { $(
        #[doc = concat!("`", stringify!($name), "` of the C library.")]
        #[inline(never)]
        pub fn $name($($arg: $type),*) -> $result {
            // SAFETY: see the module; the last argument has the type that these calls take.
            unsafe { variadic::$name($($arg.raw()),*) }
        }
    )* };
}

variadic! {
    fn open(path: &CStr, flags: c_int, mode: c_uint) -> c_int;
    fn open64(path: &CStr, flags: c_int, mode: c_uint) -> c_int;
    fn __open(path: &CStr, flags: c_int, mode: c_uint) -> c_int;
    fn __open64(path: &CStr, flags: c_int, mode: c_uint) -> c_int;
    fn mremap(address: *mut c_void, length: usize, new: usize, flags: c_int) -> *mut c_void;
    fn openat(directory: c_int, path: &CStr, flags: c_int, mode: c_uint) -> c_int;
    fn openat64(directory: c_int, path: &CStr, flags: c_int, mode: c_uint) -> c_int;
}

/// `syscall` of the C library, with numbers and addresses that the kernel only reads from.
#[inline(never)]
pub fn syscall(number: c_long, arguments: [usize; 6]) -> c_long {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: see the module.
    unsafe { variadic::syscall(number, a, b, c, d, e, f) }
}

/// `ioctl` of the C library with a number or an address that the kernel only reads from.
#[inline(never)]
pub fn ioctl(fd: c_int, request: c_ulong, argument: usize) -> c_int {
    // SAFETY: see the module.
    unsafe { variadic::ioctl(fd, request, argument) }
}

/// `close`.
pub fn close(fd: c_int) -> c_int {
    // SAFETY: a number; who uses it afterwards gets EBADF or another file, which is part of the test.
    unsafe { libc::close(fd) }
}

/// `lseek`.
pub fn lseek(fd: c_int, offset: i64, whence: c_int) -> i64 {
    // SAFETY: numbers only.
    unsafe { libc::lseek(fd, offset, whence) }
}

/// The calling thread's errno.
pub fn errno() -> c_int {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// What came out of a call: its value, or errno.
pub type Outcome<T = ()> = Result<T, c_int>;

/// The value of a call that says -1 when it fails.
pub fn check<T: Copy + Into<i64>>(value: T) -> Outcome<T> {
    if value.into() < 0 { Err(errno()) } else { Ok(value) }
}

/// The number of bytes that a write says it wrote.
pub fn written(value: isize) -> Outcome<usize> {
    usize::try_from(value).map_err(|_| errno())
}
