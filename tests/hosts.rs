//! The library, loaded by programs that show what servers show of themselves: versions that no server here has.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The static data of a server, and what its plugin loader reads of a library.
const HOST: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
#define JOIN(a, b) a##b
#define NAME(flavour, rest) JOIN(flavour, rest)
#ifdef FLAVOUR
static int info = (ID) << 8;
int NAME(FLAVOUR, binlog_plugin_interface_version) = INTERFACE;
int NAME(FLAVOUR, binlog_sizeof_struct_st_plugin) = SIZE;
struct { int type; void *info; void *rest[12]; } NAME(FLAVOUR, binlog_plugin)[2] = {{5, &info}};
#endif
int main(int count, char **words) {
    (void) count;
    void *library = dlopen(words[1], RTLD_NOW);
    if (!library) { puts(dlerror()); return 1; }
    const char *names[] = {"_mysql_", "_maria_"};
    for (int i = 0; i < 2; i++) {
        char symbol[99];
        snprintf(symbol, sizeof symbol, "%splugin_interface_version_", names[i]);
        int interface = *(int *) dlsym(library, symbol);
        snprintf(symbol, sizeof symbol, "%ssizeof_struct_st_plugin_", names[i]);
        int size = *(int *) dlsym(library, symbol);
        snprintf(symbol, sizeof symbol, "%splugin_declarations_", names[i]);
        const char *declaration = dlsym(library, symbol);
        int *wanted = *(int **) (declaration + 8);
        const char *name = *(const char **) (declaration + 16);
        printf("%#x %d %d %s\n", interface, size, wanted ? *wanted >> 8 : 0, name ? name : "-");
    }
    return 0;
}
"#;

/// Built beside this test.
fn library() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let folders = exe.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join("libtokudb_backup.so")).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("no library beside {}", exe.display()))
}

/// Compiles the host with these definitions, and lets it load the library.
fn loaded_by(definitions: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let (source, program) = (dir.path().join("host.c"), dir.path().join("host"));
    std::fs::write(&source, HOST).unwrap();
    run(Command::new("cc")
        .args(["-rdynamic", "-o"])
        .arg(&program)
        .arg(&source)
        .args(definitions)
        .arg("-ldl"));
    run(Command::new(Path::new(&program)).arg(library()))
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

fn server(flavour: &str, id: u32, interface: u32, size: u32) -> [String; 2] {
    let flavour = format!("-DFLAVOUR=builtin_{flavour}");
    let numbers = [format!("-DID={id}"), format!("-DINTERFACE={interface}"), format!("-DSIZE={size}")];
    let [id, interface, size] = numbers.each_ref().map(String::as_str);
    let output = loaded_by(&[&flavour, id, interface, size]);
    [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap())
}

const EMPTY: &str = "0 0 0 -\n";

#[test]
fn each_server_finds_the_declaration_that_it_wants() {
    for (id, interface, size) in
        [(50624, 0x104, 104), (50744, 0x107, 104), (80036, 0x10a, 112), (100001, 0x10b, 112)]
    {
        let declared = format!("{interface:#x} {size} {id} tokudb_backup\n{EMPTY}");
        assert_eq!(server("", id, interface, size), [declared, String::new()]);
    }
    for (id, interface) in [(100529, 0x10e), (110806, 0x10f), (120302, 0x110)] {
        let declared = format!("{EMPTY}{interface:#x} 104 {id} tokudb_backup\n");
        assert_eq!(server("maria_", id, interface, 104), [declared, String::new()]);
    }
}

#[test]
fn other_servers_are_refused_and_told_why() {
    for (flavour, id, interface, size, why) in [
        ("", 50562, 0x103, 104, "MySQL 5.5.62 is too old: 5.6 is the oldest"),
        ("maria_", 100434, 0x10e, 104, "MariaDB 10.4.34 is too old: 10.5 is the oldest"),
        (
            "",
            100001,
            0x10c,
            120,
            "MySQL 10.0.1 declares plugins in an unknown way (interface 0x10c, 120 bytes)",
        ),
        ("maria_", 120302, 0x200, 104, "MariaDB 12.3.2 declares plugins in an unknown way"),
    ] {
        let [declared, said] = server(flavour, id, interface, size);
        assert_eq!(declared, [EMPTY, EMPTY].concat(), "a server refuses that by the version 0");
        assert!(said.starts_with("[ERROR] tokudb_backup is not loaded: ") && said.contains(why), "{said}");
        assert_eq!(said.lines().count(), 1);
    }
}

#[test]
fn a_program_that_is_no_server_hears_nothing() {
    let output = loaded_by(&[]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), [EMPTY, EMPTY].concat());
    assert!(output.stderr.is_empty(), "{output:?}");
}
