//! One portable library on every server, in every way of bringing it in: each cell takes a backup that is complete.
//! MariaDB 10.5 runs on its own glibc 2.31.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::client::Conn;
use lab::installation::OWN_GLIBC;
use lab::plugged::{Plugged, SMALL, UNINSTALL, backs_up, code, refused, set_dir, status, wait_for};
use lab::scratch::Scratch;
use lab::server::Options;

lab::on_every_server! { brought_in }

const NAMES: [&str; 2] = ["tokudb_backup.so", "libHotBackup.so"];

/// A server that all cells have in turn: its data directory outlives them, each has a start of its own.
struct Matrix {
    plugged: Plugged,
    /// The folder of both libraries as they were built: one file with two names.
    built: PathBuf,
    scratch: Scratch,
    cells: usize,
}

impl Matrix {
    fn start(&mut self, options: Options) -> Conn {
        let plugins = NAMES.map(|name| self.built.join(name)).to_vec();
        self.start_with(plugins, options)
    }

    fn start_with(&mut self, plugins: Vec<PathBuf>, options: Options) -> Conn {
        self.plugged.server.options = Options { plugins, ..options };
        self.plugged.server.start().unwrap();
        self.plugged.server.connect().unwrap()
    }

    /// Servers wait a while for connections that are open.
    fn stop(&mut self, conn: Conn) {
        drop(conn);
        self.plugged.server.stop().unwrap();
    }

    /// A small backup.
    fn backs_up(&mut self, conn: &mut Conn, cell: &str) {
        println!("{}: {cell}", self.plugged.server.installation.name);
        conn.exec(format!("SET tokudb_backup_exclude = '{SMALL}'")).unwrap();
        self.cells += 1;
        let dir = self.plugged.backup(&self.cells.to_string());
        backs_up(conn, &dir);
        fs::remove_dir_all(dir).unwrap();
    }

    /// How many copies of the library the server has loaded.
    fn copies(&self, files: &[PathBuf]) -> usize {
        loaded(self.plugged.server.pid().unwrap(), files)
    }
}

/// How many of the files' inodes the process has mapped.
fn loaded(pid: u32, files: &[PathBuf]) -> usize {
    let mut inodes: Vec<u64> = files.iter().map(|file| fs::metadata(file).unwrap().ino()).collect();
    inodes.sort_unstable();
    inodes.dedup();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mapped =
        |inode: &u64| maps.lines().any(|line| line.split_whitespace().nth(4) == Some(&inode.to_string()));
    inodes.iter().filter(|inode| mapped(inode)).count()
}

fn install(soname: &str) -> String {
    format!("INSTALL PLUGIN tokudb_backup SONAME '{soname}'")
}

fn brought_in(name: &str) {
    let name = if name == "mariadb-10.5" { OWN_GLIBC } else { name };
    let [plugin, _] = lab::built::portable().unwrap();
    let mut matrix = Matrix {
        plugged: Plugged::stopped(name, Options::default()),
        built: plugin.parent().unwrap().to_owned(),
        scratch: Scratch::new(&format!("matrix-{name}")).unwrap(),
        cells: 0,
    };
    installed(&mut matrix);
    configured(&mut matrix);
    preloaded(&mut matrix);
    linked(&mut matrix);
    under_a_shell(&mut matrix);
}

/// INSTALL, UNINSTALL, and once more; a start with the plugin in mysql.plugin; a server over the image.
fn installed(matrix: &mut Matrix) {
    let mut conn = matrix.start(Options::default());
    if matrix.plugged.server.installation.name == OWN_GLIBC {
        let maps =
            fs::read_to_string(format!("/proc/{}/maps", matrix.plugged.server.pid().unwrap())).unwrap();
        assert!(maps.contains("/libc-2.31.so"), "{maps}");
    }
    for round in ["INSTALL", "INSTALL after UNINSTALL"] {
        conn.exec(install(NAMES[0])).unwrap();
        assert_eq!(code(&mut conn, install(NAMES[0])), if matrix.plugged.is_mariadb() { 1968 } else { 1125 });
        matrix.backs_up(&mut conn, round);
        conn.exec(UNINSTALL).unwrap();
        assert_eq!(code(&mut conn, "SELECT @@tokudb_backup_version"), 1193);
        assert_eq!(code(&mut conn, UNINSTALL), 1305);
    }
    conn.exec(install(NAMES[0])).unwrap();
    conn.exec("CREATE DATABASE d").unwrap();
    conn.exec("CREATE TABLE d.t (a INT PRIMARY KEY) ENGINE=InnoDB").unwrap();
    conn.exec("INSERT INTO d.t VALUES (1), (2)").unwrap();
    matrix.stop(conn);

    let mut conn = matrix.start(Options::default());
    let dir = matrix.plugged.backup("whole");
    backs_up(&mut conn, &dir);
    let home = matrix.scratch.path().join("restored");
    let mut restored = lab::image::boot(&matrix.plugged.server, &dir, &home).unwrap();
    let mut other = restored.connect().unwrap();
    assert_eq!(other.value("SELECT SUM(a) FROM d.t").unwrap().as_deref(), Some("3"));
    // It has the plugin, too: mysql.plugin came along.
    assert_eq!(status(&mut other, "last_result"), "none");
    drop(other);
    restored.stop().unwrap();
    fs::remove_dir_all(home).unwrap();
    fs::remove_dir_all(dir).unwrap();
    conn.exec(UNINSTALL).unwrap();
    matrix.stop(conn);
}

/// plugin-load-add and variables, from a my.cnf.
fn configured(matrix: &mut Matrix) {
    let (defaults, allowed) = (matrix.scratch.path().join("my.cnf"), matrix.scratch.path().join("allowed"));
    fs::create_dir(&allowed).unwrap();
    let text = format!(
        "[mysqld]\nplugin-load-add=tokudb_backup.so\ntokudb-backup-allowed-prefix={}\n\
         tokudb_backup_throttle=123456789\nloose-tokudb-backup-dir={}/at-start\n",
        allowed.display(),
        allowed.display()
    );
    fs::write(&defaults, text).unwrap();
    let mut conn = matrix.start(Options { defaults: Some(defaults), ..Options::default() });
    let sql = "SELECT @@tokudb_backup_allowed_prefix, @@tokudb_backup_throttle, @@tokudb_backup_dir";
    let expected = [&*allowed.display().to_string(), "123456789", "NULL"];
    assert_eq!(conn.query(sql).unwrap().texts(), [expected]);
    let outside = matrix.plugged.backup("outside");
    refused(&mut conn, set_dir(&outside), 1105, libc::EPERM, "is not below the allowed prefix");
    assert!(!outside.exists());
    let backups = std::mem::replace(&mut matrix.plugged.backups, allowed.clone());
    matrix.backs_up(&mut conn, "my.cnf");
    matrix.plugged.backups = backups;
    assert_eq!(fs::read_dir(&allowed).unwrap().count(), 0);
    matrix.stop(conn);
}

/// One of the files preloaded and the other installed: one instance where they are one file, and two that do not
/// disturb each other where one is a copy.
fn preloaded(matrix: &mut Matrix) {
    let [plugin, library] = NAMES;
    for (first, second, hows) in
        [(library, plugin, [("hard link", 1), ("copy", 2)]), (plugin, library, [("link", 1), ("copy", 2)])]
    {
        for (how, copies) in hows {
            let dir = matrix.scratch.path().join(format!("{second} {how}").replace(' ', "-"));
            fs::create_dir(&dir).unwrap();
            let (preload, plugin) = (dir.join(first), dir.join(second));
            fs::copy(matrix.built.join(first), &preload).unwrap();
            match how {
                "link" => symlink(&preload, &plugin).unwrap(),
                "hard link" => fs::hard_link(&preload, &plugin).unwrap(),
                _ => drop(fs::copy(&preload, &plugin).unwrap()),
            }
            let options = Options { preload: Some(preload.clone()), ..Options::default() };
            let mut conn = matrix.start_with(vec![plugin.clone()], options);
            let files = [preload, plugin];
            assert_eq!(matrix.copies(&files), 1);
            conn.exec(install(second)).unwrap();
            assert_eq!(matrix.copies(&files), copies, "{first} preloaded, {second} as {how}");
            matrix.backs_up(&mut conn, &format!("{first} preloaded, {second} as {how}"));
            conn.exec(UNINSTALL).unwrap();
            matrix.stop(conn);
        }
    }
}

/// libHotBackup linked into the server.
fn linked(matrix: &mut Matrix) {
    let program = matrix.scratch.path().join("server");
    let library = matrix.built.join(NAMES[1]);
    let installation = &matrix.plugged.server.installation;
    let patch = Command::new("patchelf")
        .args(["--add-needed".as_ref(), library.as_os_str(), "--output".as_ref(), program.as_os_str()])
        .arg(installation.program())
        .output()
        .expect("patchelf: apt-get install patchelf");
    assert!(patch.status.success(), "{patch:?}");
    // Servers look for their messages relative to where they are.
    let args = if installation.name == "mysql-9.7" { vec!["--basedir=/usr".to_owned()] } else { Vec::new() };
    let mut conn = matrix.start(Options { program: Some(program.clone()), args, ..Options::default() });
    assert_eq!(loaded(matrix.plugged.server.pid().unwrap(), &[program]), 1, "the copy runs");
    assert_eq!(matrix.copies(&[library]), 1, "it is linked");
    conn.exec(install(NAMES[0])).unwrap();
    matrix.backs_up(&mut conn, "linked");
    conn.exec(UNINSTALL).unwrap();
    matrix.stop(conn);
}

/// What mysqld_safe does: a shell with children of its own that starts the server, and once more when it is killed.
const SAFE: &str = r#"#!/bin/sh
set -u
server=
trap 'kill -TERM "$server"' TERM
here=$(dirname -- "$0")
user=$(id -un | sed 's/^/user /')
(umask 077 && printf '%s\n' "$user" > "$here/said.new" && cat < /dev/null >> "$here/said.new")
env MARKED=1 sh -c 'mv -- "$1" "$2" && printf "%s\n" "$MARKED" >> "$2"' sh "$here/said.new" "$here/said"
while :; do
    nohup nice -n 0 setpriv --pdeathsig KILL "$@" < /dev/null &
    server=$!
    # A trapped signal ends the first wait only.
    wait "$server"
    status=$?
    while kill -0 "$server" 2> /dev/null; do wait "$server"; status=$?; done
    [ "$status" = 137 ] || exit "$status"
done
"#;

/// `LD_PRELOAD=... mysqld_safe`: the library does nothing in the shell and its children.
fn under_a_shell(matrix: &mut Matrix) {
    let dir = matrix.scratch.path().join("safe");
    fs::create_dir(&dir).unwrap();
    let safe = dir.join("mysqld_safe");
    fs::write(&safe, SAFE).unwrap();
    fs::set_permissions(&safe, PermissionsExt::from_mode(0o755)).unwrap();
    let library = matrix.built.join(NAMES[1]);
    let options = Options { wrapper: Some(safe), preload: Some(library.clone()), ..Options::default() };
    let mut conn = matrix.start(options);
    let shell = matrix.plugged.server.pid().unwrap();
    assert_eq!(loaded(shell, std::slice::from_ref(&library)), 1, "the shell has the library");
    assert_eq!(
        fs::read_dir(format!("/proc/{shell}/task")).unwrap().count(),
        1,
        "without a thread of its own"
    );
    assert_eq!(fs::read_to_string(dir.join("said")).unwrap(), "user root\n1\n");
    let server = child_of(shell).expect("the server is the shell's child");
    assert_eq!(loaded(server, std::slice::from_ref(&library)), 1);
    conn.exec(install(NAMES[0])).unwrap();
    matrix.backs_up(&mut conn, "mysqld_safe");

    // SAFETY: takes a process id and a signal; the server is a child of our own child, which has not reaped it.
    assert_eq!(unsafe { libc::kill(i32::try_from(server).unwrap(), libc::SIGKILL) }, 0);
    wait_for("the server's second life", || {
        child_of(shell).is_some_and(|again| again != server) && matrix.plugged.server.connect().is_ok()
    });
    let mut conn = matrix.plugged.server.connect().unwrap();
    matrix.backs_up(&mut conn, "mysqld_safe, restarted");
    conn.exec(UNINSTALL).unwrap();
    matrix.stop(conn);
}

/// Starts the server by the real script: what runs the server becomes the program that the script starts.
const BY_SCRIPT: &str = r#"#!/bin/sh
set -eu
here=$(dirname -- "$0")
words=
while :; do
    case $1 in --*) break ;; esac
    words="$words '$1'"
    shift
done
printf '#!/bin/sh\nexec setpriv --pdeathsig KILL %s "$@"\n' "$words" > "$here/server"
chmod 755 "$here/server"
exec sh "$here/script" "$@" --ledir="$here" --mysqld=server
"#;

#[test]
fn mysqld_safe_of_mysql() {
    by_mysqld_safe("mysql-9.7", "usr/bin/mysqld_safe");
}
#[test]
fn mariadbd_safe() {
    by_mysqld_safe("mariadb-10.11-engines", "usr/bin/mariadbd-safe");
}

/// `LD_PRELOAD=libHotBackup.so mysqld_safe`, with the servers' own scripts, which restart a server that was killed.
fn by_mysqld_safe(name: &str, script: &str) {
    let [plugin, library] = lab::built::portable().unwrap();
    let mut plugged = Plugged::stopped(name, Options::default());
    let dir = Scratch::new(&format!("safe-{name}")).unwrap();
    let wrapper = dir.path().join("start");
    fs::write(&wrapper, BY_SCRIPT).unwrap();
    fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755)).unwrap();
    symlink(plugged.server.installation.dir.join("root").join(script), dir.path().join("script")).unwrap();
    plugged.server.options = Options {
        plugins: vec![plugin],
        wrapper: Some(wrapper),
        preload: Some(library.clone()),
        ..Options::default()
    };
    plugged.server.start().unwrap();
    let shell = plugged.server.pid().unwrap();
    assert_eq!(loaded(shell, std::slice::from_ref(&library)), 1, "the script's shell has the library");
    let server = child_of(shell).expect("the server is the script's child");
    assert_eq!(loaded(server, std::slice::from_ref(&library)), 1);
    let mut conn = plugged.server.connect().unwrap();
    conn.exec(install(NAMES[0])).unwrap();
    conn.exec(format!("SET tokudb_backup_exclude = '{SMALL}'")).unwrap();
    backs_up(&mut conn, &plugged.backup("first"));

    // SAFETY: takes a process id and a signal; the server is a child of our own child, which has not reaped it.
    assert_eq!(unsafe { libc::kill(i32::try_from(server).unwrap(), libc::SIGKILL) }, 0);
    wait_for("the server's second life", || {
        child_of(shell).is_some_and(|again| again != server) && plugged.server.connect().is_ok()
    });
    let mut conn = plugged.server.connect().unwrap();
    conn.exec(format!("SET tokudb_backup_exclude = '{SMALL}'")).unwrap();
    backs_up(&mut conn, &plugged.backup("second"));
    conn.exec("SHUTDOWN").unwrap();
    drop(conn);
    // The script ends with its server.
    plugged.server.wait(std::time::Duration::from_secs(60)).unwrap();
}

/// The process's only child, if it has one.
fn child_of(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(Path::new("/proc").join(format!("{pid}/task/{pid}/children"))).ok()?;
    children.trim().parse().ok()
}
