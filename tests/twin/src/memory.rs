//! Pages of memory, aligned for direct I/O.

use crate::sys::{self, Address};

/// Private pages.
#[derive(Debug)]
pub struct Memory {
    address: *mut libc::c_void,
    length: usize,
}

// SAFETY: it owns its pages.
unsafe impl Send for Memory {}

impl Memory {
    /// `length` bytes of zeros, rounded up to pages.
    pub fn new(length: usize) -> Self {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let address = sys::mmap(std::ptr::null_mut(), length, access, flags, -1, 0);
        assert_ne!(address, libc::MAP_FAILED, "no memory");
        Memory { address, length }
    }

    /// Where they are.
    pub fn address(&self) -> Address {
        self.address
    }

    /// The pages.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped, writable, owned and this long.
        unsafe { std::slice::from_raw_parts_mut(self.address.cast(), self.length) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        sys::munmap(self.address, self.length);
    }
}
