//! What a fault that capture found means for the user.

use super::error::Error;
use crate::tracker::Fault;

/// The error with which the backup ends.
pub fn describe(fault: Fault) -> Error {
    let (errno, text) = match fault {
        Fault::TooManyRequests => (
            libc::EOVERFLOW,
            "more asynchronous writes are in flight than can be followed; set innodb_use_native_aio=0",
        ),
        Fault::PosixAio => (
            libc::ENOTSUP,
            "the server called aio_write or lio_listio, which cannot be followed; switch the feature off that uses \
             POSIX asynchronous I/O",
        ),
        Fault::UnknownUring => (
            libc::ENOTSUP,
            "an io_uring is used in a way that cannot be followed (kernel-side submission, registered files or an \
             unknown operation); set innodb_use_native_aio=0",
        ),
        Fault::TooManyUnseen => (
            libc::EOVERFLOW,
            "too many files are written through stdio streams or memory mappings, which cannot be observed",
        ),
        Fault::NotAttached => (
            libc::ENOTSUP,
            "a library was loaded whose calls could not be intercepted; load it before the backup",
        ),
        Fault::LostHook => (
            libc::EIO,
            "another library has taken over an intercepted call while the backup was running; start it again",
        ),
        Fault::LostCompletion => {
            (libc::EOVERFLOW, "the end of an asynchronous write was missed; set innodb_use_native_aio=0")
        }
        Fault::TooManyDevices => (libc::EOVERFLOW, "the sources lie on too many file systems (64 at most)"),
    };
    Error::new(errno, text)
}
