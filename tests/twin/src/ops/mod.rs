//! The table of operations: every call of capture's list, by name.

pub mod asynchronous;
pub mod attributes;
pub mod data;
pub mod ledger;
pub mod mapping;
pub mod names;
pub mod numbers;
pub mod opening;
pub mod process;
pub mod raw;
pub mod size;
pub mod stdio;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::rng::Rng;
use crate::sys::{self, Outcome};
use crate::worker::Worker;

/// What an operation needs of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing special.
    Nothing,
    /// FICLONE.
    Clones,
    /// This mode of fallocate.
    Allocation(i32),
    /// Extended attributes of users.
    Attributes,
    /// A call with this number (with arguments that make no sense it must not be ENOSYS), and extended attributes.
    Call(i64),
    /// File handles that can be opened.
    Handles,
    /// io_uring, in this kernel and not forbidden.
    Uring,
    /// Descriptors of directories that only point (openat2 and its like are older than what we run on).
    Temporary,
}

impl Needs {
    /// Whether it is met in this directory.
    pub fn met(self, directory: &Path) -> bool {
        let scratch = |name: &str| {
            let path = directory.join(name);
            std::fs::write(&path, vec![1; 1 << 16]).expect("a scratch file");
            let file = File::options().read(true).write(true).open(&path).expect("the scratch file");
            std::fs::remove_file(&path).expect("the scratch file");
            file
        };
        match self {
            Needs::Nothing => true,
            Needs::Clones => {
                let (from, to) = (scratch("probe-from"), scratch("probe-to"));
                sys::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd() as usize) == 0
            }
            Needs::Allocation(mode) => sys::fallocate(scratch("probe").as_raw_fd(), mode, 4096, 4096) == 0,
            Needs::Attributes => {
                sys::fsetxattr(scratch("probe").as_raw_fd(), c"user.twin", [1u8].as_ptr().cast(), 1, 0) == 0
            }
            Needs::Call(number) => {
                let known = sys::syscall(number, [usize::MAX; 6]) == 0 || sys::errno() != libc::ENOSYS;
                known && Needs::Attributes.met(directory)
            }
            Needs::Handles => {
                let directory = File::open(directory).expect("a directory");
                let handle = sys::handle(&crate::library::c_string(&PathBuf::from(format!(
                    "/proc/self/fd/{}/.",
                    directory.as_raw_fd()
                ))));
                let flags = libc::O_RDONLY | libc::O_CLOEXEC;
                let fd =
                    handle.map_or(-1, |handle| sys::open_by_handle_at(directory.as_raw_fd(), &handle, flags));
                fd >= 0 && sys::close(fd) == 0
            }
            Needs::Uring => crate::asynchronous::uring::Ring::new().is_some(),
            Needs::Temporary => {
                let path = crate::library::c_string(directory);
                let fd = sys::open(&path, libc::O_TMPFILE | libc::O_RDWR, 0o600);
                fd >= 0 && sys::close(fd) == 0
            }
        }
    }
}

/// One operation.
pub struct Operation {
    /// The call that it is about, and in brackets how.
    pub name: &'static str,
    /// How often it runs, against the others.
    pub weight: u32,
    /// What must be there for it to succeed.
    pub needs: Needs,
    /// Nobody can see it write, nor hold it up in the gate: the image is exact to within milliseconds (P24), so
    /// that it can only be compared when all stand still.
    pub unseen: bool,
    /// Runs it once; an error is what the call under test said.
    pub run: fn(&mut Worker<'_>, &mut Rng) -> Outcome,
}

const fn op(name: &'static str, weight: u32, run: fn(&mut Worker<'_>, &mut Rng) -> Outcome) -> Operation {
    Operation { name, weight, needs: Needs::Nothing, unseen: false, run }
}

const fn op_where(
    needs: Needs,
    name: &'static str,
    weight: u32,
    run: fn(&mut Worker<'_>, &mut Rng) -> Outcome,
) -> Operation {
    Operation { name, weight, needs, unseen: false, run }
}

const fn unseen(name: &'static str, weight: u32, run: fn(&mut Worker<'_>, &mut Rng) -> Outcome) -> Operation {
    Operation { name, weight, needs: Needs::Nothing, unseen: true, run }
}

/// All operations, by family.
pub const FAMILIES: [&[Operation]; 12] = [
    data::OPERATIONS,
    size::OPERATIONS,
    opening::OPERATIONS,
    names::OPERATIONS,
    attributes::OPERATIONS,
    stdio::OPERATIONS,
    mapping::OPERATIONS,
    asynchronous::OPERATIONS,
    raw::OPERATIONS,
    numbers::OPERATIONS,
    process::OPERATIONS,
    ledger::OPERATIONS,
];

/// The operations of a run.
pub struct Table {
    /// By index.
    pub operations: Vec<&'static Operation>,
    /// Sums of weights, up to and with each.
    sums: Vec<u64>,
}

impl Table {
    /// All of them, or those whose name is or begins with one of `only`, before a space or the end. None for a name
    /// that is no operation's.
    pub fn new(only: &[String]) -> Result<Table, String> {
        let named = |operation: &Operation, name: &str| {
            operation.name == name || operation.name.split(' ').next().is_some_and(|call| call == name)
        };
        let all = || FAMILIES.into_iter().flatten();
        if let Some(unknown) = only.iter().find(|name| !all().any(|operation| named(operation, name))) {
            return Err(format!("no operation is called {unknown}"));
        }
        let operations: Vec<&Operation> = all()
            .filter(|operation| only.is_empty() || only.iter().any(|name| named(operation, name)))
            .collect();
        let sums = operations
            .iter()
            .scan(0, |sum, operation| {
                *sum += u64::from(operation.weight);
                Some(*sum)
            })
            .collect();
        Ok(Table { operations, sums })
    }

    /// The index of one, by weight.
    pub fn choose(&self, rng: &mut Rng) -> usize {
        let number = rng.below(*self.sums.last().expect("a table is not empty"));
        self.sums.partition_point(|sum| *sum <= number)
    }
}

/// A result that must not be 0 to count.
fn some(bytes: usize) -> Outcome {
    if bytes == 0 { Err(0) } else { Ok(()) }
}

/// 0 is success, -1 is errno.
fn zero(value: i32) -> Outcome {
    sys::check(value).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_weights_hold() {
        let table = Table::new(&[]).unwrap();
        let mut names: Vec<_> = table.operations.iter().map(|operation| operation.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
        let mut rng = Rng::of(&[1]);
        let mut seen = vec![0u32; table.operations.len()];
        for _ in 0..200_000 {
            seen[table.choose(&mut rng)] += 1;
        }
        assert!(seen.iter().all(|count| *count > 0));
    }

    #[test]
    fn operations_are_found_by_their_call() {
        let only = |name: &str| Table::new(&[name.to_string()]).map(|table| table.operations.len());
        assert!(only("pwritev2").unwrap() > 1);
        assert!(only("nothing").is_err());
    }
}
