//! Hooks left out on purpose: the oracles must notice each.

use crate::{Scratch, memory, twin};

/// Names that are not intercepted, and operations that show it.
const LEFT_OUT: &[(&str, &str)] = &[
    ("write", "write,open"),
    ("__write,__pwrite64", "__write,__pwrite64,open"),
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
    ("__open,__open64", "__open,__open64,unlink"),
    ("creat,creat64", "creat,creat64,pwrite"),
    ("__open_2,__open64_2,__openat_2,__openat64_2", "__open_2,__open64_2,__openat_2,__openat64_2,write"),
    ("open_by_handle_at", "open_by_handle_at,write,pwrite"),
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
    ("__xmknod,__xmknodat", "__xmknod,__xmknodat,unlink,mkdir"),
    ("mkfifo,mkfifoat", "mkfifo,mkfifoat,unlink (fifo),mkdir"),
    ("mkstemp,mkstemp64,mkostemp,mkostemp64", "mkstemp,mkstemp64,mkostemp,mkostemp64"),
    ("mkstemps,mkstemps64,mkostemps,mkostemps64", "mkstemps,mkstemps64,mkostemps,mkostemps64"),
    ("mkdtemp", "mkdtemp,rmdir"),
    ("chmod,lchmod,fchmodat", "chmod,lchmod,fchmodat,open"),
    ("fchmod", "fchmod,open"),
    ("chown,lchown,fchownat", "chown,lchown,fchownat,open"),
    ("fchown", "fchown,open"),
    ("utime,utimes,futimesat", "utime,utimes,futimesat,open"),
    ("lutimes", "lutimes,open,symlink"),
    ("futimes,futimens", "futimes,futimens,open"),
    ("utimensat", "utimensat,open,mkdir"),
    ("setxattr,lsetxattr", "setxattr,lsetxattr,removexattr,open"),
    ("fsetxattr", "fsetxattr,removexattr,open"),
    ("removexattr,lremovexattr,fremovexattr", "fsetxattr,removexattr,lremovexattr,fremovexattr,open"),
    ("syscall", "syscall (write),syscall (pwrite64),syscall (ftruncate)"),
    ("dlopen", "dlopen,open,write"),
    ("dlmopen", "dlmopen,open,write"),
    (
        "fwrite,fwrite_unlocked,fputs,fputs_unlocked,fputc,fputc_unlocked,putc,putc_unlocked,_IO_putc,fflush,\
         fflush_unlocked,fclose,fseek,fseeko,fseeko64,fsetpos,fsetpos64,rewind",
        "fopen,fopen64,fdopen",
    ),
];

/// Names that the twin cannot miss, and why.
const OTHERWISE: &[(&str, &str)] = &[
    ("io_submit io_uring_submit io_uring_submit_and_wait", "such a server is refused: below"),
    (
        "io_uring_submit_and_get_events io_uring_submit_and_wait_timeout io_uring_submit_and_wait_min_timeout \
         io_uring_submit_and_wait_reg",
        "requests that nobody saw being submitted are found by the ring's counters: below",
    ),
    (
        "io_getevents io_pgetevents io_uring_wait_cqes io_uring_wait_cqe_timeout",
        "reaping need not be seen (P13): completions stay readable in the ring; these hooks only spare time",
    ),
    (
        "io_destroy io_queue_release io_uring_queue_exit",
        "the engine would read a ring that is not mapped any more: the program would crash, not differ",
    ),
    ("ioctl", "only some file systems share blocks: below, on btrfs"),
    (
        "openat2",
        "a name of libc since 2.43, newer than what the program is linked to; its number is left out above",
    ),
    ("aio_write aio_write64 lio_listio lio_listio64", "refused: capi, unseen::posix_aio_is_refused"),
    ("io_uring_enter io_uring_enter2 io_uring_resize_rings", "refused, as uses of a ring that are not known"),
    (
        "fopen fopen64 fdopen freopen freopen64 tmpfile tmpfile64",
        "what a stream writes moves size and mtime, by which it is known without a mark (P25)",
    ),
    ("vfprintf __vfprintf_chk", "as fwrite; Rust cannot make a list of variadic arguments"),
    (
        "mmap mmap64 mprotect mremap",
        "mappings are also found in /proc/self/maps and by mtime (P25): capi, unseen::mappings",
    ),
];

#[test]
fn every_hook_that_is_left_out_is_noticed() {
    let scratch = Scratch::new(memory(), "controls");
    let unnoticed: Vec<String> =
        LEFT_OUT.iter().filter_map(|(names, operations)| unnoticed(&scratch, names, operations)).collect();
    assert!(unnoticed.is_empty(), "{}", unnoticed.join("\n\n"));
}

/// What shares blocks between files, where they can be shared.
#[test]
fn clones_that_are_not_intercepted_are_noticed() {
    let scratch = Scratch::new(crate::disk(), "clones");
    let arguments =
        ["filesystems", "--fs", "btrfs", "--rounds", "8", "--storm", "--ops", "ioctl,write,ftruncate"];
    let (success, output) = twin(&scratch.0, &arguments, &left_out_are("ioctl"));
    assert!(!success && output.contains("FAILED"), "{output}");
}

/// Each hook is left out above, or it is said why not.
#[test]
fn every_hook_is_accounted_for() {
    let named = LEFT_OUT.iter().flat_map(|(names, _)| names.split(','));
    let named = named.chain(OTHERWISE.iter().flat_map(|(names, _)| names.split_whitespace()));
    let mut named: Vec<&str> = named.collect();
    let mut known: Vec<&str> = tokudb_backup::capture::intercepted().collect();
    named.sort_unstable();
    known.sort_unstable();
    assert_eq!(named, known);
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
    twin(&scratch.0, &arguments, &left_out_are(names))
}

fn left_out_are(names: &str) -> [(&str, &str); 2] {
    [("TOKUDB_BACKUP_TEST", "1"), ("TOKUDB_BACKUP_TEST_DROP_HOOKS", names)]
}
