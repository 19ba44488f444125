//! Every server that we prove anything on can be created, killed, recovered and stopped here.

use lab::client::{Conn, ConnOptions};
use lab::scratch::Scratch;
use lab::server::{Options, Server};

const VERSION: &str = "SELECT VERSION()";

fn life_of_a_server(name: &str, version: &str) {
    let scratch = Scratch::new(name).unwrap();
    let mut server = Server::create(name, scratch.path(), Options::default()).unwrap();
    assert!(!server.is_running());
    server.start().unwrap();
    assert!(server.is_running());
    assert!(server.start().is_err(), "a server that runs cannot be started again");

    let mut conn = server.connect().unwrap();
    let found = conn.value(VERSION).unwrap().unwrap();
    assert!(found.starts_with(version), "{found}");
    conn.exec("CREATE DATABASE d").unwrap();
    conn.exec("CREATE TABLE d.i (a INT PRIMARY KEY, b VARBINARY(10)) ENGINE=InnoDB").unwrap();
    conn.exec("CREATE TABLE d.m (a INT PRIMARY KEY, b VARBINARY(10)) ENGINE=MyISAM").unwrap();
    for table in ["d.i", "d.m"] {
        let affected =
            conn.exec(format!("INSERT INTO {table} VALUES (1, 'one'), (2, NULL), (3, x'00ff')")).unwrap();
        assert_eq!(affected, 3);
    }
    // What was not flushed to the file is lost with the process in MyISAM: its key blocks.
    conn.exec("FLUSH TABLES").unwrap();

    server.kill9();
    assert!(!server.is_running());
    let error = conn.query("SELECT 1").unwrap_err();
    assert!(error.is_disconnect(), "{error}");

    server.start().unwrap();
    let mut conn = server.connect().unwrap();
    let expected = vec![
        vec![Some(b"1".to_vec()), Some(b"one".to_vec())],
        vec![Some(b"2".to_vec()), None],
        vec![Some(b"3".to_vec()), Some(vec![0, 0xff])],
    ];
    for table in ["d.i", "d.m"] {
        let answer = conn.query(format!("SELECT a, b FROM {table} ORDER BY a")).unwrap();
        assert_eq!(answer.columns, ["a", "b"]);
        assert_eq!(answer.rows, expected, "{table}");
    }
    server.stop().unwrap();
    assert!(server.stop().is_err(), "a server that does not run cannot be stopped");
}

#[test]
fn mysql_5_6() {
    life_of_a_server("mysql-5.6.24", "5.6.24");
}

#[test]
fn mysql_9_7() {
    life_of_a_server("mysql-9.7", "9.7.");
}

#[test]
fn mariadb_10_11() {
    life_of_a_server("mariadb-10.11", "10.11.");
}

#[test]
fn a_library_built_here_is_preloaded() {
    let library = lab::built::hot_backup().unwrap().canonicalize().unwrap();
    for name in lab::installation::DEFAULT {
        let scratch = Scratch::new("preload").unwrap();
        let options = Options { preload: Some(library.clone()), ..Options::default() };
        let mut server = Server::create(name, scratch.path(), options).unwrap();
        server.start().unwrap();
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", server.pid().unwrap())).unwrap();
        assert!(maps.contains(library.to_str().unwrap()), "{name}:\n{maps}");
        server.stop().unwrap();
    }
}

#[test]
fn a_second_server_over_a_copy() {
    let scratch = Scratch::new("copy").unwrap();
    let mut first =
        Server::create("mariadb-10.11", &scratch.path().join("first"), Options::default()).unwrap();
    first.start().unwrap();
    first.connect().unwrap().exec("CREATE DATABASE copied").unwrap();
    first.stop().unwrap();
    let data = scratch.path().join("data");
    lab::installation::copy_tree(first.data(), &data).unwrap();
    first.start().unwrap();
    let mut second =
        Server::over("mariadb-10.11", &scratch.path().join("second"), &data, Options::default()).unwrap();
    second.start().unwrap();
    let mut conn = second.connect().unwrap();
    assert_eq!(conn.query("SHOW DATABASES LIKE 'copied'").unwrap().texts(), [["copied"]]);
    let own = conn.value("SELECT @@datadir").unwrap().unwrap();
    assert_eq!(std::path::Path::new(&own), data);
    second.stop().unwrap();
    first.stop().unwrap();
}

#[test]
fn errors_say_what_happened() {
    let scratch = Scratch::new("errors").unwrap();
    let nobody = scratch.path().join("nobody");
    let error = Conn::connect(&ConnOptions::root(&nobody)).unwrap_err();
    assert!(error.is_disconnect(), "{error}");

    let mut server = Server::create("mariadb-10.11", &scratch.path().join("s"), Options::default()).unwrap();
    server.options.args.push("--no-such-option".into());
    let error = server.start().unwrap_err().to_string();
    assert!(error.contains("no-such-option"), "the error log is in the error: {error}");
    assert!(!server.is_running());

    server.options.args.clear();
    server.start().unwrap();
    let mut conn = server.connect().unwrap();
    let error = conn.query("SELECT * FROM nowhere.at_all").unwrap_err();
    assert_eq!((error.code, error.state.as_str()), (1146, "42S02"), "{error}");
    assert!(!error.is_disconnect());
    assert_eq!(conn.value("SELECT NULL").unwrap(), None);
    assert_eq!(conn.value(b"SELECT HEX(_binary'\xff')").unwrap().as_deref(), Some("FF"));
    server.stop().unwrap();
}

#[test]
fn connections_of_many_threads() {
    let scratch = Scratch::new("threads").unwrap();
    let mut server = Server::create("mariadb-10.11", scratch.path(), Options::default()).unwrap();
    server.start().unwrap();
    let mut moved = server.connect().unwrap();
    moved.exec("CREATE DATABASE d").unwrap();
    moved.exec("CREATE TABLE d.t (a INT AUTO_INCREMENT PRIMARY KEY, c BIGINT)").unwrap();
    let server = &server;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(move || {
                let mut conn = server.connect().unwrap();
                let id = conn.id();
                for _ in 0..50 {
                    conn.exec(format!("INSERT INTO d.t (c) VALUES ({id})")).unwrap();
                }
            });
        }
        scope.spawn(move || assert!(moved.value(VERSION).unwrap().is_some()));
    });
    let rows =
        server.connect().unwrap().query("SELECT COUNT(*), COUNT(DISTINCT c) FROM d.t").unwrap().texts();
    assert_eq!(rows, [["400", "8"]]);
}
