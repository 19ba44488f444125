//! The asynchronous calls are imported by the program itself, as a server's are.

fn main() {
    println!("cargo::rustc-link-lib=aio");
    println!("cargo::rustc-link-lib=uring");
}
