//! Real servers under load: the SQL client, server control, workload and checks of demo, soak and tests.
//!
//! [`installation`] knows the servers that `cargo xtask servers` fetched, [`server`] runs one in a [`scratch`]
//! directory with what was [`built`], [`client`] talks to it.
//!
//! [`plugged`] is what tests of the plugin itself share.
//!
//! A [`load`] is made of the clients of [`workload`], whose commits a [`ledger`] records, of what makes a server [`busy`], and of the storm of
//! [`ddl`].
//! A [`round`] takes a backup under it, starts a server over the [`image`] and [`check`]s it, [`binlog`] included.
//! The [`oracle`] asks whether capture sees every change that a server makes.
//! [`replication`] makes servers replicas of each other.
//! The [`soak`] runs rounds, the [`demo`] shows one, with choices that are a function of a seed ([`rng`]).

pub mod binlog;
pub mod built;
pub mod busy;
pub mod check;
pub mod client;
pub mod ddl;
pub mod demo;
pub mod features;
pub mod growth;
pub mod image;
pub mod installation;
pub mod ledger;
pub mod load;
pub mod locks;
pub mod nolog;
pub mod oracle;
pub mod plugged;
pub mod process;
pub mod replication;
pub mod rng;
pub mod round;
pub mod scratch;
pub mod server;
pub mod soak;
pub mod with_server;
pub mod workload;
