//! Which directory a path's last name stands in (P9).

use std::ffi::{CStr, c_char, c_int};

use super::changes::{self, Change, Changes, MOVES, Stamp};
use super::hook::{self, Stat};
use crate::tracker::{Key, Pass, tracker};

const LIMIT: usize = libc::PATH_MAX as usize;
/// Names of a parent's path that are followed one by one.
const STEPS: usize = 16;

/// A path as a caller gave it, with the directory that its last name stood in before the call.
#[derive(Debug)]
pub struct Place {
    directory: c_int,
    /// The path of the parent, NUL-terminated.
    parent_path: [u8; LIMIT],
    parent: Option<Key>,
    path: *const c_char,
    name_hash: u64,
    /// The last name's alone, in whatever directory.
    move_hash: u64,
    moves: Stamp,
    name: Stamp,
    /// The moves of each name of the parent's path; `None`: there are too many, or one is "..".
    steps: Option<[Option<(&'static Changes, Stamp)>; STEPS]>,
}

impl Place {
    /// Looks up the parent of `path` relative to `directory`. `None`: no path that the kernel would take.
    ///
    /// # Safety
    /// `path` is null or a NUL-terminated string that lives as long as the place.
    pub unsafe fn of(directory: c_int, path: *const c_char) -> Option<Place> {
        if path.is_null() {
            return None;
        }
        let mut place = Place {
            directory,
            parent_path: [0; LIMIT],
            parent: None,
            path,
            name_hash: 0,
            move_hash: 0,
            moves: MOVES.stamp(),
            name: MOVES.stamp(),
            steps: None,
        };
        // SAFETY: by the caller's promise.
        let bytes = unsafe { CStr::from_ptr(path) }.to_bytes();
        let (parent, name) = split(bytes)?;
        place.parent_path.get_mut(..parent.len())?.copy_from_slice(parent);
        // At least one byte stays NUL.
        if parent.len() >= LIMIT {
            return None;
        }
        place.steps = steps(parent);
        place.move_hash = hash(None, name);
        place.parent = place.look().map(|stat| stat.key);
        place.name_hash = hash(place.parent, name);
        place.name = place.changes().stamp();
        Some(place)
    }

    fn look(&self) -> Option<Stat> {
        let path = CStr::from_bytes_until_nul(&self.parent_path).ok()?;
        hook::stat_at(self.directory, path, 0)
    }

    fn path(&self) -> &CStr {
        // SAFETY: `of` got a NUL-terminated string that outlives the place.
        unsafe { CStr::from_ptr(self.path) }
    }

    /// Whether the name may stand in a source: its parent is on one's device, or cannot be told.
    pub fn is_watched(&self) -> bool {
        self.parent.is_none_or(|parent| tracker().watches(parent.dev))
    }

    /// What the name stands for now; a symbolic link for itself.
    pub fn lstat(&self) -> Option<Stat> {
        hook::stat_at(self.directory, self.path(), libc::AT_SYMLINK_NOFOLLOW)
    }

    /// What the path leads to now.
    pub fn stat(&self) -> Option<Stat> {
        hook::stat_at(self.directory, self.path(), 0)
    }

    fn changes(&self) -> &'static Changes {
        changes::of_name(self.name_hash)
    }

    /// Whether nobody has taken the name away or made it stand for something else since the place was looked up.
    pub fn is_quiet(&self) -> bool {
        self.changes().quiet_since(self.name, 0)
    }

    /// The name is about to be taken away or to stand for something else.
    pub fn begin(&self) -> [Change<'static>; 2] {
        [self.changes().begin(), changes::NAMES.begin()]
    }

    /// The name is about to be given to, or taken from, a directory or a link, so that paths lead elsewhere.
    pub fn begin_move(&self) -> Change<'static> {
        changes::of_move(self.move_hash).begin()
    }

    /// Whether the parent's path led to the same directory all the time if it does so at its two ends. `own_moves`:
    /// the caller's changes of [`MOVES`] under way, see [`Changes::quiet_since`].
    pub fn path_is_quiet(&self, own_moves: u64) -> bool {
        if MOVES.quiet_since(self.moves, own_moves) {
            return true;
        }
        // Something was moved: it matters when it has one of our path's names, or is where a link leads.
        let Some(steps) = &self.steps else { return false };
        steps.iter().flatten().all(|(moves, stamp)| moves.quiet_since(*stamp, 0))
            && !self.leads_through_link()
    }

    fn leads_through_link(&self) -> bool {
        let mut path = self.parent_path;
        let length = path.iter().position(|&byte| byte == 0).unwrap_or(0);
        (1..=length)
            // Where a name ends.
            .filter(|&end| {
                let at = |index: usize| self.parent_path.get(index).copied().unwrap_or(0);
                at(end - 1) != b'/' && matches!(at(end), b'/' | 0)
            })
            .any(|end| self.is_link(&mut path, end))
    }

    /// Whether the first `length` bytes of the parent's path are a link, or nothing.
    fn is_link(&self, path: &mut [u8; LIMIT], length: usize) -> bool {
        let Some(end) = path.get_mut(length) else { return true };
        let kept = std::mem::replace(end, 0);
        let stat = CStr::from_bytes_until_nul(path)
            .ok()
            .and_then(|path| hook::stat_at(self.directory, path, libc::AT_SYMLINK_NOFOLLOW));
        if let Some(end) = path.get_mut(length) {
            *end = kept;
        }
        stat.is_none_or(|stat| stat.is(libc::S_IFLNK))
    }

    /// The directory that the name stands in, when it was the same one all the time.
    pub fn certain(&self, own_moves: u64) -> Option<Key> {
        let parent = self.parent?;
        (self.look().is_some_and(|now| now.key == parent) && self.path_is_quiet(own_moves)).then_some(parent)
    }

    /// The name has changed: marks its directory, or all where it cannot be told which.
    pub fn mark(&self, pass: &Pass<'_>, own_moves: u64) {
        match self.certain(own_moves) {
            Some(parent) => tracker().mark_names(pass, parent),
            None => {
                for directory in [self.parent, self.look().map(|stat| stat.key)].into_iter().flatten() {
                    tracker().mark_names(pass, directory);
                }
                tracker().mark_all_names(pass);
            }
        }
    }
}

/// The parent's path and the last name of a path. `None`: there is no last name.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = path.iter().rposition(|&byte| byte != b'/')? + 1;
    let path = path.get(..end)?;
    match path.iter().rposition(|&byte| byte == b'/') {
        // With its slash: "/" for "/x", and "link/" follows a link.
        Some(slash) => Some((path.get(..=slash)?, path.get(slash + 1..)?)),
        None => Some((b".", path)),
    }
}

/// The moves of each name of a path. `None`: too many, or ".." is among them, which a move of a directory changes.
fn steps(path: &[u8]) -> Option<[Option<(&'static Changes, Stamp)>; STEPS]> {
    let mut steps = [None; STEPS];
    let names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    for (index, name) in names.enumerate() {
        if name == b".." {
            return None;
        }
        let moves = changes::of_move(hash(None, name));
        *steps.get_mut(index)? = Some((moves, moves.stamp()));
    }
    Some(steps)
}

/// FNV-1a over the directory and the name.
fn hash(parent: Option<Key>, name: &[u8]) -> u64 {
    let Key { dev, ino } = parent.unwrap_or(Key { dev: 0, ino: 0 });
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let hash =
        dev.to_ne_bytes().iter().chain(&ino.to_ne_bytes()).chain(name).fold(0xcbf2_9ce4_8422_2325, step);
    hash ^ hash >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_name_is_what_a_change_of_names_is_about() {
        assert_eq!(split(b"a"), Some((&b"."[..], &b"a"[..])));
        assert_eq!(split(b"/a"), Some((&b"/"[..], &b"a"[..])));
        assert_eq!(split(b"./db//t.ibd"), Some((&b"./db//"[..], &b"t.ibd"[..])));
        assert_eq!(split(b"db/new//"), Some((&b"db/"[..], &b"new"[..])));
        assert_eq!(split(b""), None);
        assert_eq!(split(b"//"), None);
    }

    #[test]
    fn a_path_that_is_too_long_is_none() {
        let long = vec![b'x'; LIMIT - 1].into_iter().chain(*b"/y\0").collect::<Vec<u8>>();
        // SAFETY: NUL-terminated, and it lives long enough.
        assert!(unsafe { Place::of(libc::AT_FDCWD, long.as_ptr().cast()) }.is_none());
        // SAFETY: null is allowed.
        assert!(unsafe { Place::of(libc::AT_FDCWD, std::ptr::null()) }.is_none());
    }

    #[test]
    fn a_move_elsewhere_leaves_a_path_certain() {
        let directory = std::env::temp_dir().join(format!("capture-place-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("a")).expect("a directory");
        std::os::unix::fs::symlink("a", directory.join("link")).expect("a link");
        let of = |path: &str| {
            let path = std::ffi::CString::new(directory.join(path).into_os_string().into_encoded_bytes());
            // Leaked: the place keeps the pointer.
            // SAFETY: NUL-terminated, and it lives for ever.
            unsafe { Place::of(libc::AT_FDCWD, path.expect("no NUL").into_raw()) }.expect("a place")
        };
        let moved = |name: &str| drop((MOVES.begin(), changes::of_move(hash(None, name.as_bytes())).begin()));
        let (plain, linked, up) = (of("a/x"), of("link/x"), of("a/../a/x"));
        moved("elsewhere");
        assert!(plain.certain(0).is_some());
        assert!(linked.certain(0).is_none(), "what the link leads through may have moved");
        assert!(up.certain(0).is_none(), "where .. leads may have moved");
        moved("a");
        assert!(plain.certain(0).is_none());
        std::fs::remove_dir_all(directory).expect("removed");
    }

    #[test]
    fn the_parent_is_found() {
        let here = hook::stat_at(libc::AT_FDCWD, c".", 0).expect("the current directory").key;
        // SAFETY: a C string literal.
        let place = unsafe { Place::of(libc::AT_FDCWD, c"./no-such-name".as_ptr()) }.expect("a place");
        assert_eq!(place.parent, Some(here));
        assert!(place.lstat().is_none());
    }
}
