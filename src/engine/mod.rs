//! The backup itself: passes, gate, copier, names. Knows nothing of MySQL.

pub mod destination;
pub mod error;
pub mod exclude;
pub mod identity;
pub mod manifest;
pub mod progress;
pub mod throttle;
