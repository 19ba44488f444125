//! Hot physical backup of a running MySQL or MariaDB server: a plugin (`tokudb_backup.so`) and the same library
//! for any program (`libHotBackup.so`).
//!
//! The rooms of the house, from the top down; a module uses only what stands below it:
//!
//! - [`plugin`]: what the server sees: declarations, variables and their callbacks, status, one run of a backup.
//! - [`server`]: what we ask of the server: privileges, state line, KILL, errors, log, paths, the DDL lock.
//! - [`capi`]: `tokubackup_create_backup` and friends, the C interface of `libHotBackup.so`.
//! - [`backup`]: one backup from end to end: attach capture, run the engine, detach. Plugin and C interface call it.
//! - [`engine`]: passes, gate, copier, names, throttle, progress, exclude, manifest, errors. Knows nothing of MySQL.
//! - [`capture`]: how changes are seen: hooks by family, attaching them to the loaded objects. Knows nothing of copying.
//! - [`tracker`]: the meeting point of the two: dirty ranges by inode, dirty directories, the gate.
//!
//! `docs/design.md` tells how they work together; rules cited as `P7` and the like are listed there.

pub mod backup;
pub mod capi;
pub mod capture;
pub mod engine;
#[cfg(test)]
pub mod fuzz;
pub mod plugin;
pub mod server;
pub mod tracker;
