//! Threads that change no file and must not hold a backup up: one blocked for ever in a write to a full pipe, and one
//! that computes without a single call.

use std::ffi::c_int;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::sys;

/// See the module.
pub struct Bystanders {
    threads: Vec<JoinHandle<()>>,
    over: Arc<AtomicBool>,
    pipe: [c_int; 2],
}

impl Bystanders {
    /// Starts them; the one that computes only if wanted, because it takes a processor.
    pub fn start(computing: bool) -> Self {
        let mut pipe = [-1; 2];
        // SAFETY: an array of two.
        assert_eq!(unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
        let over = Arc::new(AtomicBool::new(false));
        let blocked = std::thread::spawn(move || {
            let bytes = [0u8; 4096];
            // Until the reading end is closed, which is EPIPE (SIGPIPE is ignored in Rust programs).
            while sys::write(pipe[1], bytes.as_ptr().cast(), bytes.len()) > 0 {}
        });
        let mut threads = vec![blocked];
        if computing {
            let over = over.clone();
            threads.push(std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            }));
        }
        Bystanders { threads, over, pipe }
    }
}

impl Drop for Bystanders {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        sys::close(self.pipe[0]);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        sys::close(self.pipe[1]);
    }
}
