//! syscall(2): the number tells which call it is. Most say at once that they change no file: MariaDB's futexes
//! come this way, millions of them.

use std::ffi::{CStr, c_char, c_int, c_long, c_void};

use libc::AT_FDCWD;

use super::data::Asked;
use super::hook;
use super::{asynchronous, attributes, data, ioctl, mapping, names, size, uring};
use crate::tracker::{Marks, tracker};

/// Numbers of calls that change files, sorted by what is done about them.
mod number {
    use std::ffi::c_long;

    /// The last number that was looked at (file_setattr). What is newer is taken to change anything.
    pub const LAST: c_long = 469;
    #[cfg(target_arch = "x86_64")]
    pub const IO_PGETEVENTS: c_long = 333;
    #[cfg(target_arch = "aarch64")]
    pub const IO_PGETEVENTS: c_long = 292;
    pub const FCHMODAT2: c_long = 452;
    pub const SETXATTRAT: c_long = 463;
    pub const REMOVEXATTRAT: c_long = 466;
    pub const FILE_SETATTR: c_long = 469;

    /// Calls of which each is looked at.
    #[cfg(target_arch = "x86_64")]
    pub const OLD: &[c_long] = &[
        libc::SYS_open,
        libc::SYS_creat,
        libc::SYS_rename,
        libc::SYS_link,
        libc::SYS_symlink,
        libc::SYS_unlink,
        libc::SYS_rmdir,
        libc::SYS_mkdir,
        libc::SYS_mknod,
        libc::SYS_chmod,
        libc::SYS_chown,
        libc::SYS_lchown,
        libc::SYS_utime,
        libc::SYS_utimes,
        libc::SYS_futimesat,
    ];
    #[cfg(target_arch = "aarch64")]
    pub const OLD: &[c_long] = &[];

    pub const FILES: &[c_long] = &[
        libc::SYS_write,
        libc::SYS_pwrite64,
        libc::SYS_writev,
        libc::SYS_pwritev,
        libc::SYS_pwritev2,
        libc::SYS_sendfile,
        libc::SYS_splice,
        libc::SYS_copy_file_range,
        libc::SYS_ftruncate,
        libc::SYS_truncate,
        libc::SYS_fallocate,
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_open_by_handle_at,
        libc::SYS_renameat,
        libc::SYS_renameat2,
        libc::SYS_linkat,
        libc::SYS_symlinkat,
        libc::SYS_unlinkat,
        libc::SYS_mkdirat,
        libc::SYS_mknodat,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        FCHMODAT2,
        libc::SYS_fchown,
        libc::SYS_fchownat,
        libc::SYS_utimensat,
        libc::SYS_setxattr,
        libc::SYS_lsetxattr,
        libc::SYS_fsetxattr,
        libc::SYS_removexattr,
        libc::SYS_lremovexattr,
        libc::SYS_fremovexattr,
        SETXATTRAT,
        REMOVEXATTRAT,
        FILE_SETATTR,
        libc::SYS_ioctl,
        libc::SYS_mmap,
        libc::SYS_mprotect,
        libc::SYS_mremap,
        libc::SYS_io_submit,
        libc::SYS_io_getevents,
        IO_PGETEVENTS,
        libc::SYS_io_destroy,
        libc::SYS_io_uring_enter,
    ];

    /// Calls after which nothing is known.
    pub const ANYTHING: &[c_long] = &[
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_move_mount,
        libc::SYS_remap_file_pages,
        libc::SYS_acct,
        libc::SYS_swapon,
        libc::SYS_mount_setattr,
    ];
}

pub use number::IO_PGETEVENTS;

/// Which argument is the descriptor of what the call changes; `None`: it is told otherwise.
pub fn changed_descriptor(number: c_long) -> Option<usize> {
    match number {
        libc::SYS_write
        | libc::SYS_pwrite64
        | libc::SYS_writev
        | libc::SYS_pwritev
        | libc::SYS_pwritev2
        | libc::SYS_sendfile
        | libc::SYS_ftruncate
        | libc::SYS_fallocate
        | libc::SYS_fchmod
        | libc::SYS_fchown
        | libc::SYS_fsetxattr
        | libc::SYS_fremovexattr
        | libc::SYS_ioctl => Some(0),
        libc::SYS_splice | libc::SYS_copy_file_range => Some(2),
        _ => None,
    }
}

/// What a call is called, for messages.
pub fn name(number: c_long) -> String {
    let known = match number {
        libc::SYS_write => "write",
        libc::SYS_pwrite64 => "pwrite",
        libc::SYS_writev => "writev",
        libc::SYS_pwritev | libc::SYS_pwritev2 => "pwritev",
        libc::SYS_ftruncate => "ftruncate",
        libc::SYS_fallocate => "fallocate",
        libc::SYS_openat => "open",
        libc::SYS_unlinkat => "unlink",
        libc::SYS_io_submit => "io_submit",
        libc::SYS_io_getevents | IO_PGETEVENTS => "io_getevents",
        libc::SYS_io_uring_enter => "io_uring_enter",
        #[cfg(target_arch = "x86_64")]
        libc::SYS_unlink => "unlink",
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename => "rename",
        _ => return format!("system call {number}"),
    };
    known.into()
}

const WORDS: usize = 8;

/// A bit for each number that must be looked at.
static SEEN: [u64; WORDS] = bits();

const fn bits() -> [u64; WORDS] {
    let mut bits = [0u64; WORDS];
    let lists = [number::OLD, number::FILES, number::ANYTHING];
    let mut list = 0;
    while list < lists.len() {
        let mut index = 0;
        while index < lists[list].len() {
            let number = lists[list][index] as usize;
            bits[number / 64] |= 1 << (number % 64);
            index += 1;
        }
        list += 1;
    }
    bits
}

/// Whether a call changes no file.
#[inline]
pub fn is_harmless(number: c_long) -> bool {
    // A negative number is a huge one.
    let number = number as u64;
    number <= number::LAST as u64
        && SEEN.get((number / 64) as usize).is_some_and(|word| word >> (number % 64) & 1 == 0)
}

/// linux/openat2.h: struct open_how.
#[repr(C)]
struct How {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Runs a call that is not harmless. `real` makes it with the arguments that it gets.
///
/// # Safety
/// The arguments are what the call asks for.
pub unsafe fn run(
    call: &'static CStr,
    number: c_long,
    arguments: [c_long; 6],
    real: impl Fn([c_long; 6]) -> c_long,
) -> c_long {
    let with = real;
    let real = || with(arguments);
    if !hook::is_on() {
        return real();
    }
    let [a, b, c, d, e, f] = arguments;
    let (fd, mode) = (a as c_int, Marks::ATTRIBUTES);
    let string = |value: c_long| std::ptr::with_exposed_provenance::<c_char>(value as usize);
    let offset_at = |value: c_long| std::ptr::with_exposed_provenance::<i64>(value as usize);
    let vector = Asked::Vector(std::ptr::with_exposed_provenance(b as usize), c as c_int);
    let asked = |count: c_long| Asked::Bytes(count as usize);
    let bytes = || real() as isize;
    let int = || real() as c_int;
    // SAFETY: the arguments are those of the call with this number.
    unsafe {
        match number {
            libc::SYS_write => data::at_position(call, fd, asked(c), 0, bytes) as c_long,
            libc::SYS_writev => data::at_position(call, fd, vector, 0, bytes) as c_long,
            libc::SYS_pwrite64 => data::at(call, fd, d, asked(c), 0, bytes) as c_long,
            libc::SYS_pwritev => data::at(call, fd, d, vector, 0, bytes) as c_long,
            // Its flags are the sixth, the offset is in two halves of which this machine uses the first.
            libc::SYS_pwritev2 => {
                data::at_or_position(call, fd, (d != -1).then_some(d), vector, f as c_int, bytes) as c_long
            }
            libc::SYS_sendfile => data::at_position(call, fd, asked(d), 0, bytes) as c_long,
            libc::SYS_splice => {
                data::splice(call, fd, c as c_int, offset_at(d), e as usize, f as u32, |flags| {
                    with([a, b, c, d, e, c_long::from(flags)]) as isize
                }) as c_long
            }
            libc::SYS_copy_file_range => {
                let target = offset_at(d).as_ref().copied();
                data::at_or_position(call, c as c_int, target, asked(e), 0, bytes) as c_long
            }
            libc::SYS_ftruncate => size::ftruncate(call, fd, b, int).into(),
            libc::SYS_truncate => size::truncate(call, string(a), b, int).into(),
            libc::SYS_fallocate => size::fallocate(call, fd, b as c_int, c, d, int).into(),
            libc::SYS_openat => names::open(call, fd, string(b), c as c_int, int).into(),
            libc::SYS_openat2 => {
                let how = std::ptr::with_exposed_provenance::<How>(c as usize);
                match how.as_ref() {
                    Some(how) if how.resolve == 0 => {
                        names::open(call, fd, string(b), how.flags as c_int, int).into()
                    }
                    Some(how) if how.flags as c_int & (libc::O_CREAT | libc::O_TRUNC) != 0 => {
                        anything(call, real)
                    }
                    _ => real(),
                }
            }
            libc::SYS_open_by_handle_at => names::open_by_handle(call, c as c_int, int).into(),
            libc::SYS_renameat => {
                names::rename(call, (fd, string(b)), (c as c_int, string(d)), 0, int).into()
            }
            libc::SYS_renameat2 => {
                names::rename(call, (fd, string(b)), (c as c_int, string(d)), e as u32, int).into()
            }
            libc::SYS_linkat => {
                names::link(call, (fd, string(b)), (c as c_int, string(d)), e as c_int, int).into()
            }
            libc::SYS_symlinkat => names::symlink(call, b as c_int, string(c), int).into(),
            libc::SYS_unlinkat => names::unlink(call, fd, string(b), int).into(),
            libc::SYS_mkdirat | libc::SYS_mknodat => names::make(call, fd, string(b), int).into(),
            libc::SYS_fchmod | libc::SYS_fchown => attributes::by_fd(call, fd, mode, int).into(),
            libc::SYS_fchmodat => attributes::at(call, fd, string(b), 0, mode, int).into(),
            number::FCHMODAT2 | libc::SYS_utimensat => {
                attributes::at(call, fd, string(b), d as c_int, mode, int).into()
            }
            libc::SYS_fchownat => attributes::at(call, fd, string(b), e as c_int, mode, int).into(),
            libc::SYS_fsetxattr | libc::SYS_fremovexattr => {
                attributes::by_fd(call, fd, Marks::XATTRS, int).into()
            }
            libc::SYS_setxattr | libc::SYS_removexattr => {
                attributes::at(call, AT_FDCWD, string(a), 0, Marks::XATTRS, int).into()
            }
            libc::SYS_lsetxattr | libc::SYS_lremovexattr => {
                attributes::at(call, AT_FDCWD, string(a), libc::AT_SYMLINK_NOFOLLOW, Marks::XATTRS, int)
                    .into()
            }
            number::SETXATTRAT | number::REMOVEXATTRAT => {
                attributes::at(call, fd, string(b), c as c_int, Marks::XATTRS, int).into()
            }
            libc::SYS_ioctl => {
                let argument = std::ptr::with_exposed_provenance::<c_void>(c as usize);
                ioctl::ioctl(call, fd, b as libc::c_ulong, argument, int).into()
            }
            libc::SYS_mmap => mapping::mmap(b as usize, c as c_int, d as c_int, e as c_int, || {
                std::ptr::with_exposed_provenance_mut(real() as usize)
            }) as c_long,
            libc::SYS_mprotect => mapping::mprotect(a as usize, b as usize, c as c_int, int).into(),
            libc::SYS_mremap => mapping::mremap(a as usize, b as usize, || {
                std::ptr::with_exposed_provenance_mut(real() as usize)
            }) as c_long,
            libc::SYS_io_submit => {
                let requests = std::ptr::with_exposed_provenance::<*const c_void>(c as usize);
                asynchronous::submit(call, a as usize, b, requests, real)
            }
            libc::SYS_io_getevents | number::IO_PGETEVENTS => {
                asynchronous::get_events(call, a as usize, real)
            }
            libc::SYS_io_destroy => asynchronous::destroy(call, a as usize, real),
            libc::SYS_io_uring_enter => uring::enter(call, b as u32, real),
            _ => old(call, number, arguments, real),
        }
    }
}

/// Calls that newer architectures do not have.
///
/// # Safety
/// As for [`run`].
#[cfg(target_arch = "x86_64")]
unsafe fn old(
    call: &'static CStr,
    number: c_long,
    arguments: [c_long; 6],
    real: impl Fn() -> c_long,
) -> c_long {
    let [a, b, ..] = arguments;
    let string = |value: c_long| std::ptr::with_exposed_provenance::<c_char>(value as usize);
    let int = || real() as c_int;
    // SAFETY: the arguments are those of the call with this number.
    let result = unsafe {
        match number {
            libc::SYS_open => names::open(call, AT_FDCWD, string(a), b as c_int, int),
            libc::SYS_creat => {
                names::open(call, AT_FDCWD, string(a), libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, int)
            }
            libc::SYS_rename => names::rename(call, (AT_FDCWD, string(a)), (AT_FDCWD, string(b)), 0, int),
            libc::SYS_link => names::link(call, (AT_FDCWD, string(a)), (AT_FDCWD, string(b)), 0, int),
            libc::SYS_symlink => names::symlink(call, AT_FDCWD, string(b), int),
            libc::SYS_unlink | libc::SYS_rmdir => names::unlink(call, AT_FDCWD, string(a), int),
            libc::SYS_mkdir | libc::SYS_mknod => names::make(call, AT_FDCWD, string(a), int),
            libc::SYS_chmod | libc::SYS_chown | libc::SYS_utime | libc::SYS_utimes => {
                attributes::at(call, AT_FDCWD, string(a), 0, Marks::ATTRIBUTES, int)
            }
            libc::SYS_lchown => {
                attributes::at(call, AT_FDCWD, string(a), libc::AT_SYMLINK_NOFOLLOW, Marks::ATTRIBUTES, int)
            }
            libc::SYS_futimesat => attributes::at(call, a as c_int, string(b), 0, Marks::ATTRIBUTES, int),
            _ => return anything(call, real),
        }
    };
    result.into()
}

/// There are none.
///
/// # Safety
/// None is asked for.
#[cfg(target_arch = "aarch64")]
unsafe fn old(
    call: &'static CStr,
    _number: c_long,
    _arguments: [c_long; 6],
    real: impl Fn() -> c_long,
) -> c_long {
    anything(call, real)
}

/// A call that may have changed anything.
fn anything(call: &'static CStr, real: impl Fn() -> c_long) -> c_long {
    let result = real();
    if hook::may_have_changed(result) {
        hook::keep_errno(|| {
            if let Some(pass) = tracker().enter(call) {
                tracker().mark_everything(&pass);
                tracker().mark_all_names(&pass);
            }
        });
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_no_file_is_harmless() {
        for number in [libc::SYS_futex, libc::SYS_gettid, libc::SYS_read, libc::SYS_pread64, libc::SYS_close]
        {
            assert!(is_harmless(number));
        }
        for &number in [number::OLD, number::FILES, number::ANYTHING].into_iter().flatten() {
            assert!(!is_harmless(number), "{number}");
        }
        assert!(!is_harmless(number::LAST + 1), "a call of a newer kernel");
        assert!(!is_harmless(-1));
        assert!(!is_harmless(0x4000_0001), "a call of another ABI");
    }
}
