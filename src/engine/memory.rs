//! Memory that may be refused.
//!
//! Whatever grows with the number of files, or is large by itself, is asked for here, so that a server without memory
//! loses a backup and nothing else. A small allocation that fails aborts the process, here as in the server itself.

use super::error::{Error, Result};

/// The backup ends for want of memory.
pub fn refused() -> Error {
    Error::new(
        libc::ENOMEM,
        "the server has no memory left that the backup could use; take it again when it has",
    )
}

/// Room for `more` elements.
pub fn reserve<T>(list: &mut Vec<T>, more: usize) -> Result<()> {
    list.try_reserve(more).map_err(|_| refused())
}

/// An empty list with room for `count` elements.
pub fn list<T>(count: usize) -> Result<Vec<T>> {
    let mut list = Vec::new();
    list.try_reserve_exact(count).map_err(|_| refused())?;
    Ok(list)
}

/// So many zeroes.
pub fn zeroes(length: usize) -> Result<Vec<u8>> {
    let mut bytes = list(length)?;
    bytes.resize(length, 0);
    Ok(bytes)
}
