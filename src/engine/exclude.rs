//! Which source files are left out.

/// How the files to leave out are chosen.
#[derive(Clone, Debug, Default)]
pub enum Exclude {
    /// Nothing is left out.
    #[default]
    Nothing,
    /// Full source paths that this expression matches.
    Matching(regex::bytes::Regex),
    /// What [`crate::backup::Caller::excluded`] says.
    AskCaller,
}
