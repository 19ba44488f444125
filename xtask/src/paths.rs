//! Where things are: the workspace and the servers.

use std::path::PathBuf;

/// The root of the workspace that this `cargo xtask` was called in.
pub fn workspace() -> PathBuf {
    // cargo sets the variable for `cargo run`; the compiled-in value serves a binary that is called by hand.
    let xtask = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    xtask.parent().map_or_else(|| xtask.clone(), PathBuf::from)
}

/// Where the fetched servers are: `target/servers` of the workspace whatever `CARGO_TARGET_DIR` says, or
/// `TOKUDB_BACKUP_SERVERS`, so that several checkouts can share one copy. `tests/lab` has the same rule.
pub fn servers() -> PathBuf {
    std::env::var_os("TOKUDB_BACKUP_SERVERS")
        .filter(|v| !v.is_empty())
        .map_or_else(|| workspace().join("target").join("servers"), PathBuf::from)
}
