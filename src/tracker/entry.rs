//! What is known of one inode: which of its bytes the image does not have yet.
//!
//! Hooks set marks, the engine takes them away. A mark is set after its write has landed (P1) and taken away
//! before the source is read (P2); so a byte that the image misses always has a mark, or a call under way that
//! will set it.

use std::ops::Range;

use super::sync::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// Granularity of marks, bytes: InnoDB's page.
pub const BLOCK: u64 = 16 * 1024;

/// An inode's identity while it exists: `st_dev`, `st_ino`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

/// What an entry stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory: its marks say that its names changed.
    Directory,
}

bitflags::bitflags! {
    /// Marks that are not ranges.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Marks: u32 {
        /// A range, or the size.
        const DATA = 1;
        /// Mode, owner, times.
        const ATTRIBUTES = 2;
        /// Extended attributes.
        const XATTRS = 4;
        /// A directory's names.
        const NAMES = 8;
        /// The inode was made anew: nothing that was copied under this number counts (P6).
        const BORN = 16;
    }
}

/// One bit a block.
#[derive(Debug)]
struct Bitmap {
    words: Box<[AtomicU64]>,
}

impl Bitmap {
    /// `None`: there is no memory for it.
    fn new(bytes: u64) -> Option<Self> {
        let count = bytes.div_ceil(BLOCK).div_ceil(64) as usize;
        let mut words = Vec::new();
        words.try_reserve_exact(count).ok()?;
        words.extend((0..count).map(|_| AtomicU64::new(0)));
        Some(Bitmap { words: words.into() })
    }

    fn bytes(&self) -> u64 {
        self.words.len() as u64 * 64 * BLOCK
    }

    /// Sets the bits of blocks `first..=last`, all within the bitmap.
    fn set(&self, first: u64, last: u64) {
        for word in first / 64..=last / 64 {
            if let Some(cell) = self.words.get(word as usize) {
                cell.fetch_or(word_mask(word, first, last), Ordering::SeqCst);
            }
        }
    }
}

/// The bits of `word` that stand for blocks `first..=last`.
fn word_mask(word: u64, first: u64, last: u64) -> u64 {
    let low = first.saturating_sub(word * 64).min(63);
    let high = (last - word * 64).min(63);
    (u64::MAX << low) & (u64::MAX >> (63 - high))
}

/// The marks of one inode.
#[derive(Debug)]
pub struct Entry {
    /// Which inode.
    pub key: Key,
    /// What it is.
    pub kind: Kind,
    /// Next in the queue of entries with marks.
    pub(super) next: AtomicPtr<Entry>,
    /// In the queue, or about to be.
    pub(super) queued: AtomicBool,
    /// No longer in the table.
    pub(super) gone: AtomicBool,
    marks: AtomicU32,
    /// Everything from this offset on is marked; `u64::MAX`: nothing is.
    tail: AtomicU64,
    bitmap: AtomicPtr<Bitmap>,
    /// Bitmaps that were outgrown while someone may still mark in them: only the engine touches the list.
    outgrown: std::sync::Mutex<Vec<*mut Bitmap>>,
}

// SAFETY: `outgrown` holds pointers owned by the entry, reached under its mutex only.
unsafe impl Send for Entry {}
// SAFETY: as above; everything else is atomic or constant.
unsafe impl Sync for Entry {}

impl Entry {
    /// An entry that is marked as a whole; its bitmap has room for a file of `size` bytes to grow by a quarter
    /// and more. `None`: there is no memory for it.
    pub fn new(key: Key, kind: Kind, size: u64) -> Option<Self> {
        let (marks, bitmap) = match kind {
            Kind::File => (
                Marks::DATA | Marks::ATTRIBUTES | Marks::XATTRS,
                Box::into_raw(Box::new(Bitmap::new(room(size))?)),
            ),
            Kind::Directory => (Marks::NAMES | Marks::ATTRIBUTES | Marks::XATTRS, std::ptr::null_mut()),
        };
        Some(Entry {
            key,
            kind,
            next: AtomicPtr::new(std::ptr::null_mut()),
            queued: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            marks: AtomicU32::new(marks.bits()),
            tail: AtomicU64::new(if kind == Kind::File { 0 } else { u64::MAX }),
            bitmap: AtomicPtr::new(bitmap),
            outgrown: std::sync::Mutex::new(Vec::new()),
        })
    }

    fn bitmap(&self) -> Option<&Bitmap> {
        // SAFETY: the pointer is null or came from Box::into_raw; it is freed when the entry is, or after everyone
        // who may have loaded it has left (`settle`).
        unsafe { self.bitmap.load(Ordering::SeqCst).as_ref() }
    }

    /// Marks bytes `range` (an end of `u64::MAX`: to the end of the file, whatever it is).
    pub(super) fn mark_range(&self, range: Range<u64>) {
        if range.start < range.end {
            let covered = self.bitmap().map_or(0, Bitmap::bytes);
            if range.end > covered {
                self.tail.fetch_min(range.start, Ordering::SeqCst);
            } else if let Some(bitmap) = self.bitmap() {
                // The bitmap only ever grows, so the range is within this one too.
                bitmap.set(range.start / BLOCK, (range.end - 1) / BLOCK);
            }
        }
        self.mark(Marks::DATA);
    }

    /// Sets marks that are no ranges.
    pub(super) fn mark(&self, marks: Marks) {
        self.marks.fetch_or(marks.bits(), Ordering::SeqCst);
    }

    /// Takes the marks that are no ranges.
    pub fn take_marks(&self) -> Marks {
        Marks::from_bits_truncate(self.marks.swap(0, Ordering::SeqCst))
    }

    /// Whether anything is marked.
    pub fn is_marked(&self) -> bool {
        self.marks.load(Ordering::SeqCst) != 0
    }

    /// Takes the mark of everything from some offset on; `u64::MAX`: there was none.
    pub fn take_tail(&self) -> u64 {
        self.tail.swap(u64::MAX, Ordering::SeqCst)
    }

    /// Takes the marks of the blocks that overlap `within` and hands them out as ranges in ascending order,
    /// neighbours joined. False from `each` stops; what was not handed out stays marked.
    pub fn take_ranges(&self, within: Range<u64>, each: &mut dyn FnMut(Range<u64>) -> bool) {
        let Some(bitmap) = self.bitmap() else { return };
        let end = within.end.min(bitmap.bytes());
        if within.start >= end {
            return;
        }
        let (first, last) = (within.start / BLOCK, (end - 1) / BLOCK);
        let mut run: Option<Range<u64>> = None;
        for word in first / 64..=last / 64 {
            let Some(cell) = bitmap.words.get(word as usize) else { break };
            let mask = word_mask(word, first, last);
            if cell.load(Ordering::SeqCst) & mask == 0 {
                continue;
            }
            let mut bits = cell.fetch_and(!mask, Ordering::SeqCst) & mask;
            while bits != 0 {
                let low = u64::from(bits.trailing_zeros());
                let ones = u64::from((bits >> low).trailing_ones());
                bits &= if low + ones >= 64 { 0 } else { u64::MAX << (low + ones) };
                let start = (word * 64 + low) * BLOCK;
                let found = start..start + ones * BLOCK;
                run = match run {
                    Some(run) if run.end == found.start => Some(run.start..found.end),
                    Some(run) => {
                        if !each(run) {
                            // Not handed out: marked again.
                            bitmap.set(found.start / BLOCK, (found.end - 1) / BLOCK);
                            for bit in (0..64).filter(|bit| bits >> bit & 1 == 1) {
                                bitmap.set(word * 64 + bit, word * 64 + bit);
                            }
                            return;
                        }
                        Some(found)
                    }
                    None => Some(found),
                };
            }
        }
        if let Some(run) = run {
            each(run);
        }
    }

    /// Bytes that are marked block by block (an estimate: it is being changed).
    pub fn marked_bytes(&self) -> u64 {
        self.bitmap().map_or(0, |bitmap| {
            bitmap.words.iter().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum::<u64>()
                * BLOCK
        })
    }

    /// Where the marked tail begins, without taking it.
    pub fn tail(&self) -> u64 {
        self.tail.load(Ordering::SeqCst)
    }

    /// Whether a file of `size` bytes has outgrown the bitmap, so that writes into its new part mark all of it.
    pub fn is_outgrown_by(&self, size: u64) -> bool {
        self.kind == Kind::File && self.bitmap().is_some_and(|bitmap| bitmap.bytes() < size)
    }

    /// Gives the entry a bitmap for a file of `size` bytes. Marks may still go to the old one until everyone who
    /// was inside has left; then [`Entry::settle`] must be called. Only the engine calls it. Without memory for a
    /// larger one the old one stays: more is then marked than was written.
    pub fn grow(&self, size: u64) {
        let Some(larger) = Bitmap::new(room(size)) else { return };
        let larger = Box::into_raw(Box::new(larger));
        let old = self.bitmap.swap(larger, Ordering::SeqCst);
        if let (false, Ok(mut outgrown)) = (old.is_null(), self.outgrown.lock()) {
            outgrown.push(old);
        }
    }

    /// Moves the marks of outgrown bitmaps over. The caller has waited for everyone who was inside when they were
    /// outgrown. True: there were marks, so the entry must be queued.
    pub fn settle(&self) -> bool {
        let Ok(mut outgrown) = self.outgrown.lock() else { return false };
        let mut any = false;
        for old in outgrown.drain(..) {
            // SAFETY: `old` came from Box::into_raw in `new` or `grow`, and nobody can reach it any more.
            let old = unsafe { Box::from_raw(old) };
            for (index, word) in old.words.iter().enumerate() {
                let bits = word.load(Ordering::SeqCst);
                if bits != 0
                    && let Some(cell) = self.bitmap().and_then(|bitmap| bitmap.words.get(index))
                {
                    cell.fetch_or(bits, Ordering::SeqCst);
                    any = true;
                }
            }
        }
        if any {
            self.mark(Marks::DATA);
        }
        any
    }
}

/// Bytes that a bitmap has beyond a file's size and a quarter of it. Most files are small, never grow, and there may be
/// a million of them: a bitmap of 16 bytes is enough for those.
#[cfg(not(feature = "model"))]
fn spare(size: u64) -> u64 {
    if size < 1 << 20 { 2 << 20 } else { 64 << 20 }
}
#[cfg(feature = "model")]
fn spare(_size: u64) -> u64 {
    BLOCK
}

fn room(size: u64) -> u64 {
    size.saturating_add(size / 4).saturating_add(spare(size))
}

impl Drop for Entry {
    fn drop(&mut self) {
        let outgrown = self.outgrown.get_mut().map(std::mem::take).unwrap_or_default();
        for bitmap in outgrown.into_iter().chain([self.bitmap.load(Ordering::SeqCst)]) {
            if !bitmap.is_null() {
                // SAFETY: it came from Box::into_raw and is dropped once, with the only owner.
                drop(unsafe { Box::from_raw(bitmap) });
            }
        }
    }
}
