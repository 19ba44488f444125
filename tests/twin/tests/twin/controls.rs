//! Hooks left out on purpose: the oracles must notice each. (Of utime and its family they cannot: a time that has
//! moved is what changes by other processes are known by.)

use crate::{Scratch, memory, twin};

/// Names that are not intercepted, and operations that show it.
const LEFT_OUT: [(&str, &str); 35] = [
    ("write", "write,open"),
    ("pwrite,pwrite64", "pwrite,pwrite64,open"),
    ("writev", "writev,open"),
    ("pwritev,pwritev64", "pwritev,pwritev64,open"),
    ("pwritev2,pwritev64v2", "pwritev2,pwritev64v2,open"),
    ("sendfile,sendfile64", "sendfile,sendfile64,write,ftruncate"),
    ("splice", "splice,open"),
    ("copy_file_range", "copy_file_range,write,ftruncate"),
    ("ftruncate,ftruncate64", "ftruncate,ftruncate64,open"),
    ("truncate,truncate64", "truncate,truncate64,open"),
    ("fallocate,fallocate64", "fallocate,fallocate64,open"),
    ("posix_fallocate,posix_fallocate64", "posix_fallocate,posix_fallocate64,ftruncate"),
    ("open,open64,openat,openat64", "open,open64,openat,openat64,unlink,write"),
    ("creat,creat64", "creat,creat64,pwrite"),
    ("__open_2,__open64_2,__openat_2,__openat64_2", "__open_2,__open64_2,__openat_2,__openat64_2,write"),
    ("rename", "rename,mkdir,open"),
    ("renameat,renameat2", "renameat,renameat2,mkdir,open"),
    ("link,linkat", "link,linkat,unlink,unlinkat,mkdir"),
    ("symlink,symlinkat", "symlink,symlinkat,unlink,mkdir"),
    ("unlink", "unlink,open"),
    ("unlinkat", "unlinkat,open"),
    ("remove", "remove,open"),
    ("mkdir,mkdirat", "mkdir,mkdirat,rmdir"),
    ("rmdir", "mkdir,rmdir"),
    ("mknod,mknodat", "mknod,mknodat,unlink,mkdir"),
    ("mkstemp,mkstemp64,mkostemp,mkostemp64", "mkstemp,mkstemp64,mkostemp,mkostemp64"),
    ("mkdtemp", "mkdtemp,rmdir"),
    ("chmod,lchmod,fchmodat", "chmod,lchmod,fchmodat,open"),
    ("fchmod", "fchmod,open"),
    ("chown,lchown,fchownat", "chown,lchown,fchownat,open"),
    ("fchown", "fchown,open"),
    ("setxattr,lsetxattr", "setxattr,lsetxattr,removexattr,open"),
    ("removexattr,lremovexattr,fremovexattr", "fsetxattr,removexattr,lremovexattr,fremovexattr,open"),
    ("syscall", "syscall (write),syscall (pwrite64),syscall (ftruncate)"),
    ("dlopen", "dlopen,open,write"),
];

#[test]
fn every_hook_that_is_left_out_is_noticed() {
    let scratch = Scratch::new(memory(), "controls");
    let unnoticed: Vec<String> =
        LEFT_OUT.iter().filter_map(|(names, operations)| unnoticed(&scratch, names, operations)).collect();
    assert!(unnoticed.is_empty(), "{}", unnoticed.join("\n\n"));
}

/// What was printed, if it does not tell of a difference (or that a file went missing under way).
fn unnoticed(scratch: &Scratch, names: &str, operations: &str) -> Option<String> {
    let (success, output) = left_out(scratch, names, operations);
    // That no moment to end was found (110) says nothing about what was seen.
    let noticed = output.lines().any(|line| line.contains("FAILED") && !line.contains("returned 110"));
    if !success && noticed { None } else { Some(format!("without {names}: {output}")) }
}

/// Asynchronous writes whose submission would go by unseen are refused, saying which. (libaio submits by an imported
/// `syscall` of its own, which is intercepted too.)
#[test]
fn asynchronous_writes_that_are_not_intercepted_are_refused() {
    for (names, operations, text) in [
        ("io_submit,syscall", "io_submit,io_getevents", "libaio"),
        ("io_uring_submit,io_uring_submit_and_wait", "io_uring_submit,io_uring_peek_batch_cqe", "io_uring"),
    ] {
        let scratch = Scratch::new(memory(), "refused");
        let (success, output) = left_out(&scratch, names, operations);
        let refused = output.contains("returned 95, 1 error call(s): 95 ") && output.contains(text);
        assert!(!success && refused, "without {names}: {output}");
    }
}

/// Runs until the first failure, under backups during which the program goes on: what is missed may come in by
/// another way when it stands still.
fn left_out(scratch: &Scratch, names: &str, operations: &str) -> (bool, String) {
    let arguments = ["--rounds", "25", "--fail-fast", "--storm", "--ops", operations];
    let environment = [("TOKUDB_BACKUP_TEST", "1"), ("TOKUDB_BACKUP_TEST_DROP_HOOKS", names)];
    twin(&scratch.0, &arguments, &environment)
}
