//! Whether every function that a server imports from libc, libaio or liburing is intercepted, or known to change no
//! file (`tests/symbols/harmless.txt`): a new version of a server that calls something new is noticed here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use object::Endianness;
use object::elf::{DT_NEEDED, FileHeader64, SHT_DYNSYM};
use object::read::StringTable;
use object::read::elf::{Dyn, FileHeader, Sym};

const SERVERS: [&str; 6] =
    ["mysql-5.6.24", "mysql-9.7", "mariadb-10.5", "mariadb-10.11", "mariadb-10.11-engines", "mariadb-11.8"];
/// What the versions of the symbols of these libraries begin with.
const LIBRARIES: [&str; 3] = ["GLIBC_", "LIBAIO_", "LIBURING_"];
/// Not patched: the libraries that make the system calls, and the loader.
const CALLEES: [&str; 8] =
    ["libc.so.6", "libc-2", "libpthread.so.0", "libpthread-2", "libdl-2", "librt-2", "ld-linux", "ld-2"];

/// Folders of libraries that are loaded by name: plugins and components, what only they need, character sets.
const FOLDERS: [&str; 3] = ["plugin", "private", "gconv"];
/// Libraries that libc loads by itself.
const BY_ITSELF: [&str; 2] = ["libnss_", "libgcc_s"];
/// Where this machine has its libraries.
const HOST: &str = "/lib/x86_64-linux-gnu";

/// What an object asks of others.
#[derive(Debug, Default)]
struct Needs {
    libraries: Vec<String>,
    functions: Vec<String>,
}

fn needs(path: &Path) -> object::Result<Needs> {
    let content = fs::read(path).unwrap_or_default();
    let data = &*content;
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, data)?;
    let mut needs = Needs::default();
    if let Some((entries, strings)) = sections.dynamic(endian, data)? {
        let strings: StringTable<'_> = sections.strings(endian, data, strings)?;
        for entry in entries.iter().filter(|entry| entry.tag(endian) == DT_NEEDED) {
            needs.libraries.push(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned());
        }
    }
    let symbols = sections.symbols(endian, data, SHT_DYNSYM)?;
    let versions = sections.versions(endian, data)?;
    for (index, symbol) in symbols.enumerate().filter(|(_, symbol)| symbol.is_undefined(endian)) {
        let version = match &versions {
            Some(versions) => versions.version(versions.version_index(endian, index).into())?,
            None => None,
        };
        let of_ours = version.is_some_and(|version| {
            LIBRARIES.iter().any(|library| version.name().starts_with(library.as_bytes()))
        });
        if of_ours {
            needs.functions.push(String::from_utf8_lossy(symbols.symbol_name(endian, symbol)?).into_owned());
        }
    }
    Ok(needs)
}

/// All ELF files below `root` by the names under which the loader looks for them.
fn objects(root: &Path, found: &mut BTreeMap<String, BTreeSet<PathBuf>>) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_directory {
            objects(&path, found);
        } else if let Ok(real) = path.canonicalize()
            && real.is_file()
            && is_elf(&real)
        {
            found.entry(entry.file_name().to_string_lossy().into_owned()).or_default().insert(real);
        }
    }
}

fn is_elf(path: &Path) -> bool {
    use std::io::Read;
    let mut head = [0; 4];
    fs::File::open(path).is_ok_and(|mut file| file.read_exact(&mut head).is_ok()) && head == *b"\x7fELF"
}

/// Every function that a server or a library that it may load imports, with the names of who does.
fn imports(server: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut all = BTreeMap::new();
    objects(server, &mut all);
    // A server without a libc of its own runs on this machine's libraries.
    if !all.contains_key("libc.so.6") || server.ends_with("mariadb-10.5") {
        objects(Path::new(HOST), &mut all);
    }
    let is_root = |name: &str, path: &Path| {
        matches!(name, "mysqld" | "mariadbd")
            || BY_ITSELF.iter().any(|start| name.starts_with(start))
            || path.parent().is_some_and(|folder| FOLDERS.iter().any(|name| folder.ends_with(name)))
    };
    let mut waiting: Vec<PathBuf> = all
        .iter()
        .flat_map(|(name, paths)| paths.iter().filter(|path| is_root(name, path)))
        .cloned()
        .collect();
    assert!(!waiting.is_empty(), "{} holds no server: run `cargo xtask servers`", server.display());
    let mut seen = HashMap::new();
    while let Some(path) = waiting.pop() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if CALLEES.iter().any(|callee| name.starts_with(callee)) || seen.contains_key(&path) {
            continue;
        }
        let needs = needs(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        waiting.extend(needs.libraries.iter().filter_map(|library| all.get(library)).flatten().cloned());
        seen.insert(path, (name, needs.functions));
    }
    let mut imports = BTreeMap::<String, BTreeSet<String>>::new();
    for (object, functions) in seen.into_values() {
        for function in functions {
            imports.entry(function).or_default().insert(object.clone());
        }
    }
    imports
}

/// What a library defines for others.
fn exports(path: &Path) -> object::Result<BTreeSet<String>> {
    let content = fs::read(path).unwrap_or_default();
    let data = &*content;
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let symbols = header.sections(endian, data)?.symbols(endian, data, SHT_DYNSYM)?;
    let defined =
        symbols.iter().filter(|symbol| !symbol.is_undefined(endian) && symbol.st_value(endian) != 0);
    defined
        .map(|symbol| Ok(String::from_utf8_lossy(symbols.symbol_name(endian, symbol)?).into_owned()))
        .collect()
}

fn harmless() -> Vec<&'static str> {
    words(include_str!("symbols/harmless.txt"))
}

/// The words of a list, without reasons and comments.
fn words(list: &'static str) -> Vec<&'static str> {
    let mut words = Vec::new();
    let mut in_reason = false;
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        in_reason |= line.starts_with('[');
        if in_reason {
            in_reason = !line.ends_with(']');
        } else {
            words.extend(line.split_ascii_whitespace());
        }
    }
    words
}

fn matches(word: &str, name: &str) -> bool {
    word.strip_suffix('*').map_or(word == name, |start| name.starts_with(start))
}

/// What is neither intercepted nor harmless.
fn unknown<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let (intercepted, harmless) =
        (tokudb_backup::capture::intercepted().collect::<BTreeSet<_>>(), harmless());
    names
        .into_iter()
        .filter(|name| !intercepted.contains(name) && !harmless.iter().any(|word| matches(word, name)))
        .collect()
}

fn servers() -> PathBuf {
    std::env::var_os("TOKUDB_BACKUP_SERVERS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers"), PathBuf::from)
}

#[test]
fn every_import_of_the_servers_is_intercepted_or_harmless() {
    let mut failures = Vec::new();
    for server in SERVERS {
        let imports = imports(&servers().join(server));
        assert!(
            imports.contains_key("io_submit") && imports.contains_key("rename"),
            "{server}: the imports are read"
        );
        for name in unknown(imports.keys().map(String::as_str)) {
            failures.push(format!("{server}: {name}, imported by {:?}", imports.get(name)));
        }
    }
    assert!(
        failures.is_empty(),
        "neither in src/capture/table.rs nor in tests/symbols/harmless.txt:\n{}",
        failures.join("\n")
    );
}

/// What names of functions that change files have in them.
const STEMS: [&str; 35] = [
    "write",
    "open",
    "rename",
    "link",
    "mkdir",
    "rmdir",
    "mknod",
    "mkfifo",
    "trunc",
    "fallocate",
    "chmod",
    "chown",
    "utime",
    "xattr",
    "splice",
    "sendfile",
    "copy_file",
    "temp",
    "tmp",
    "mmap",
    "mprotect",
    "mremap",
    "ioctl",
    "syscall",
    "remove",
    "tee",
    "aio_",
    "lio_",
    "mount",
    "utx",
    "wtmp",
    "putpw",
    "putsg",
    "putsp",
    "creat64",
];

/// Names with [`STEMS`] among these that nobody has decided on. Stars in the list of what is harmless count only for
/// what libc has for itself: it is a list of what is imported today.
fn undecided(names: &BTreeSet<String>) -> Vec<&str> {
    let (intercepted, harmless) =
        (tokudb_backup::capture::intercepted().collect::<BTreeSet<_>>(), harmless());
    let exported = words(include_str!("symbols/exported.txt"));
    let is_decided = |name: &str| {
        intercepted.contains(name)
            || exported.iter().any(|word| matches(word, name))
            || harmless.iter().any(|word| *word == name || word.starts_with('_') && matches(word, name))
    };
    let sounds = |name: &&str| STEMS.iter().any(|stem| name.contains(stem));
    names.iter().map(String::as_str).filter(sounds).filter(|name| !is_decided(name)).collect()
}

/// Every name in the servers' own versions of libc that sounds like a change of files has been decided on.
#[test]
fn every_call_of_the_libcs_that_may_change_files_is_intercepted_or_listed() {
    let mut looked_at = 0;
    for server in SERVERS {
        let mut all = BTreeMap::new();
        objects(&servers().join(server), &mut all);
        objects(Path::new(HOST), &mut all);
        for libc in all.get("libc.so.6").into_iter().flatten() {
            let names = exports(libc).unwrap_or_else(|error| panic!("{}: {error}", libc.display()));
            assert!(names.contains("pwrite64") && names.contains("renameat2"), "{}", libc.display());
            assert_eq!(undecided(&names), Vec::<&str>::new(), "{}", libc.display());
            looked_at += 1;
        }
    }
    assert!(looked_at > SERVERS.len(), "that of this machine and those of the servers");
}

#[test]
fn a_call_of_a_newer_libc_is_noticed() {
    let names = ["renameat3", "memcpy", "pwritev3", "openat2", "pthread_writev"].map(str::to_owned);
    assert_eq!(undecided(&BTreeSet::from(names)), ["pthread_writev", "pwritev3", "renameat3"]);
}

#[test]
fn an_import_that_nobody_knows_is_noticed() {
    assert_eq!(
        unknown(["pwrite64", "frobnicate_file", "memcpy", "remove", "remove_all"]),
        ["frobnicate_file", "remove_all"]
    );
}

#[test]
fn nothing_is_intercepted_and_harmless_at_once() {
    let harmless = harmless();
    for name in tokudb_backup::capture::intercepted() {
        let words: Vec<_> = harmless.iter().filter(|word| matches(word, name)).collect();
        assert!(words.is_empty(), "{name} is in the list of what is harmless, as {words:?}");
    }
}

/// What capture is asked to see, whatever the servers of today import.
#[test]
fn the_calls_that_change_files_are_all_intercepted() {
    let intercepted: BTreeSet<_> = tokudb_backup::capture::intercepted().collect();
    let with_64 = [
        "pwrite",
        "pwritev",
        "sendfile",
        "ftruncate",
        "truncate",
        "fallocate",
        "posix_fallocate",
        "open",
        "openat",
        "creat",
        "mkstemp",
        "mkostemp",
        "mkstemps",
        "mkostemps",
        "fopen",
        "freopen",
        "tmpfile",
        "mmap",
        "aio_write",
        "lio_listio",
    ];
    let plain = [
        "write",
        "writev",
        "pwritev2",
        "pwritev64v2",
        "splice",
        "copy_file_range",
        "__open_2",
        "__open64_2",
        "__openat_2",
        "__openat64_2",
        "openat2",
        "rename",
        "renameat",
        "renameat2",
        "link",
        "linkat",
        "symlink",
        "symlinkat",
        "unlink",
        "unlinkat",
        "remove",
        "mkdir",
        "mkdirat",
        "rmdir",
        "mknod",
        "mknodat",
        "__xmknod",
        "__xmknodat",
        "mkdtemp",
        "mkfifo",
        "mkfifoat",
        "chmod",
        "fchmod",
        "fchmodat",
        "chown",
        "fchown",
        "fchownat",
        "lchown",
        "utime",
        "utimes",
        "utimensat",
        "futimens",
        "futimes",
        "lutimes",
        "futimesat",
        "setxattr",
        "lsetxattr",
        "fsetxattr",
        "removexattr",
        "lremovexattr",
        "fremovexattr",
        "fdopen",
        "mprotect",
        "mremap",
        "ioctl",
        "syscall",
        "dlopen",
        "dlmopen",
        "io_submit",
        "io_getevents",
        "io_destroy",
        "io_uring_submit",
        "io_uring_submit_and_wait",
        "io_uring_submit_and_wait_timeout",
        "io_uring_submit_and_get_events",
        "io_uring_enter",
        "io_uring_queue_exit",
    ];
    let missing: Vec<String> = with_64
        .iter()
        .flat_map(|name| [name.to_string(), format!("{name}64")])
        .chain(plain.iter().map(ToString::to_string))
        .filter(|name| !intercepted.contains(name.as_str()))
        .collect();
    assert_eq!(missing, Vec::<String>::new());
}
