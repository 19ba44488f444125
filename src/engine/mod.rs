//! The backup itself: passes, gate, copier, names. Knows nothing of MySQL.
//!
//! [`run`] is the course of it; [`reconcile`] keeps [`tree`] up to date, [`workers`] [`visit`] files and write
//! [`store`], [`hold`] is the gate, [`finish`] and [`place`] come after T. Only workers touch the destination, and
//! only by [`folder`].

mod attempts;
pub mod attributes;
pub mod control;
pub mod destination;
pub mod error;
pub mod exclude;
pub mod faults;
pub mod finish;
pub mod folder;
pub mod hold;
pub mod identity;
pub mod listing;
pub mod manifest;
pub mod place;
pub mod progress;
pub mod reconcile;
pub mod run;
pub mod source;
pub mod store;
pub mod threads;
pub mod throttle;
pub mod tree;
mod unseen;
pub mod visit;
pub mod workers;
