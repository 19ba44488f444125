//! Real servers under load: the SQL client, server control, workload and checks of demo, soak and tests.
//!
//! [`installation`] knows the servers that `cargo xtask servers` fetched, [`server`] runs one in a [`scratch`]
//! directory with what was [`built`], [`client`] talks to it.

pub mod built;
pub mod client;
pub mod installation;
pub mod process;
pub mod scratch;
pub mod server;
