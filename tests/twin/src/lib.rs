//! Random multi-threaded programs of file operations that run under capture, without any database, and what is
//! needed to compare and to judge: also for the tests of the C interface.
//!
//! Two oracles: the library compares source and image itself inside the closed gate (its test mode); and
//! [`compare`], which shares no code with it, compares what stood still from `before_stop_capt_fun` on. A third
//! needs no standstill: numbers that each thread writes to two files in turn ([`ops::ledger`]).

pub mod allocator;
pub mod arguments;
pub mod asynchronous;
pub mod bystanders;
pub mod compare;
pub mod filesystems;
pub mod library;
pub mod memory;
pub mod ops;
pub mod report;
pub mod rng;
pub mod round;
pub mod shared;
pub mod shrink;
pub mod sys;
pub mod worker;
pub mod world;
