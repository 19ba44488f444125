//! Random multi-threaded file programs, run under capture.

fn main() {}
