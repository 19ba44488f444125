//! The backup itself: passes, gate, copier, names. Knows nothing of MySQL.

pub mod error;
pub mod exclude;
pub mod progress;
