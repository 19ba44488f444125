//! `cargo xtask`: the project's own tasks, one file a subcommand.

fn main() {}
