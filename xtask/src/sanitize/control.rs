//! What a sanitizer must notice: `address`: a byte behind the end is read; `thread`: two write at once.

use std::cell::UnsafeCell;
use std::hint::black_box;

struct Shared(UnsafeCell<u64>);
// SAFETY: it is not; that is the point.
unsafe impl Sync for Shared {}

static SHARED: Shared = Shared(UnsafeCell::new(0));

fn write() {
    for _ in 0..1000 {
        // SAFETY: as above.
        unsafe { *black_box(SHARED.0.get()) += 1 };
    }
}

fn main() {
    if std::env::args().any(|argument| argument == "thread") {
        let other = std::thread::spawn(write);
        write();
        other.join().unwrap();
    } else {
        let bytes = black_box(vec![1u8; 10]);
        // SAFETY: as above.
        println!("{}", unsafe { *bytes.as_ptr().add(black_box(10)) });
    }
}
