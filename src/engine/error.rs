//! Why a backup failed: an errno value and one sentence that names the path, the operation, the cause, and
//! what the user can do.

use std::ffi::CStr;
use std::fmt;
use std::path::Path;

/// The reason for which a backup failed. `errno` is what `tokudb_backup_last_error` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// An errno value of this system, never 0.
    pub errno: i32,
    /// One sentence for the user.
    pub message: String,
}

/// Result of everything that a backup does.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with a text of its own.
    pub fn new(errno: i32, message: impl Into<String>) -> Self {
        Error { errno: if errno == 0 { libc::EIO } else { errno }, message: message.into() }
    }

    /// A bad argument (EINVAL).
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::new(libc::EINVAL, message)
    }

    /// `operation` on `path` failed with the errno of `cause`: "cannot OPERATION PATH: CAUSE".
    pub fn io(operation: &str, path: &Path, cause: &std::io::Error) -> Self {
        let errno = match cause.kind() {
            // No system call has said so.
            std::io::ErrorKind::OutOfMemory => libc::ENOMEM,
            _ => cause.raw_os_error().unwrap_or(libc::EIO),
        };
        Error::new(errno, format!("cannot {operation} {}: {}", path.display(), describe(errno)))
    }

    /// `operation` on `path` failed with the calling thread's errno.
    pub fn last_os(operation: &str, path: &Path) -> Self {
        Error::io(operation, path, &std::io::Error::last_os_error())
    }

    /// The backup was ended by its user (KILL, shutdown, a lost client).
    pub fn interrupted(why: &str) -> Self {
        Error::new(libc::EINTR, format!("the backup was interrupted: {why}"))
    }
}

/// The system's text for an errno value, with the number: "No space left on device (28)".
pub fn describe(errno: i32) -> String {
    let mut text = [0 as libc::c_char; 256];
    // SAFETY: strerror_r (the XSI form that libc binds) writes at most `text.len()` bytes, NUL included.
    let failed = unsafe { libc::strerror_r(errno, text.as_mut_ptr(), text.len()) } != 0;
    if failed {
        return format!("error {errno}");
    }
    // SAFETY: strerror_r succeeded, so `text` holds a NUL-terminated string.
    let text = unsafe { CStr::from_ptr(text.as_ptr()) };
    format!("{} ({errno})", text.to_string_lossy())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
