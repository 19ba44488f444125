//! How far the running backup is, for the processlist, the status variables and the C interface.

/// Where a backup stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// No backup runs.
    #[default]
    Idle,
    /// Checking, attaching capture, listing.
    Preparing,
    /// First copying of every file.
    Copying,
    /// Copying again what changed meanwhile.
    Converging,
    /// Waiting for the moment to close the gate, or inside it.
    Gate,
    /// Writing the rest, names, fsync.
    Finishing,
    /// An abandoned backup whose worker has not come back from the destination yet.
    Draining,
}

/// One look at a running backup.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Where it stands.
    pub phase: Phase,
    /// Bytes to copy in the first pass, as known now.
    pub bytes_total: u64,
    /// Bytes of them that were copied.
    pub bytes_done: u64,
    /// Files known.
    pub files_total: u64,
    /// Files copied once.
    pub files_done: u64,
    /// Passes begun.
    pub passes: u32,
    /// The file being copied, with its sizes: bytes done and in all.
    pub file: Option<(std::path::PathBuf, u64, u64)>,
    /// Microseconds since the start.
    pub elapsed_micros: u64,
}
