//! The position of a backup is that of its image: a server over the image that replicates from there has what the
//! original has, without an error on the way and without a hole.

use lab::image;
use lab::load::Load;
use lab::replication::{self, Begin, field};
use lab::rng::Rng;
use lab::scratch::Scratch;
use lab::server::{Options, Server};
use std::fs;
use std::time::Duration;

const SEED: u64 = 4711;
const GTIDS: [&str; 2] = ["--gtid-mode=ON", "--enforce-gtid-consistency=ON"];

fn replay(name: &str, more: &[&str]) {
    let scratch = Scratch::new(&format!("position-{name}")).unwrap();
    let port = replication::free_port().unwrap();
    let mut args = replication::options(1, port);
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    let options = Options { args, plugins: vec![lab::built::plugin().unwrap()], ..Options::default() };
    let mut original = Server::create(name, &scratch.path().join("original"), options).unwrap();
    original.start().unwrap();
    let mut conn = original.connect().unwrap();
    conn.exec("INSTALL PLUGIN tokudb_backup SONAME 'tokudb_backup.so'").unwrap();
    replication::admit_replicas(&mut conn).unwrap();
    replication::prepare(&mut conn).unwrap();

    println!("seed {SEED}");
    let mut load = Load::new(original.conn_options(), 1);
    replication::start(&mut load, 1, &Rng::new(SEED)).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let backup = scratch.path().join("backup");
    conn.exec(format!("SET tokudb_backup_dir = '{}'", backup.display())).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let (_, failures) = load.stop();
    assert!(failures.is_empty(), "{failures:?}");
    let expected = replication::checksums(&mut conn).unwrap();

    let info = fs::read_to_string(backup.join("tokubackup_binlog_info")).unwrap();
    println!("{name}: {info}");
    let file = field(&info, "filename").unwrap();
    let position: u64 = field(&info, "position").unwrap().parse().unwrap();
    let gtid = field(&info, "GTID of last change").unwrap();
    let manifest = fs::read_to_string(backup.join("backup_manifest")).unwrap();
    for part in [
        format!("\"file\": \"{file}\""),
        format!("\"position\": {position}, "),
        format!("\"gtid\": \"{gtid}\""),
    ] {
        assert!(manifest.contains(&part), "{part}");
    }
    assert!(backup.join(image::DATA).join(file).is_file());

    let mut restored = image::place(&original, &backup, &scratch.path().join("restored")).unwrap();
    replication::forget_identity(restored.data()).unwrap();
    restored.options.args.extend(replication::options(2, replication::free_port().unwrap()));
    restored.start().unwrap();
    let mut over_image = restored.connect().unwrap();
    // What the server itself says of its image.
    let mariadb = original.installation.is_mariadb();
    let variable = if mariadb { "@@gtid_binlog_pos" } else { "@@GLOBAL.gtid_executed" };
    let said = over_image.value(format!("SELECT REPLACE({variable}, '\n', '')")).unwrap().unwrap();
    assert_eq!(said.is_empty(), !mariadb && more != GTIDS, "{said}");
    assert_eq!(said, gtid, "{variable}");
    replication::follow(&restored, port, "", Begin::Position(file, position)).unwrap();
    replication::catch_up(&original, &restored, "").unwrap();
    assert_eq!(replication::checksums(&mut over_image).unwrap(), expected);
}

#[test]
fn mysql_5_6() {
    replay("mysql-5.6.24", &[]);
}

#[test]
fn mysql_5_6_with_gtids() {
    replay("mysql-5.6.24", &GTIDS);
}

#[test]
fn mysql_9_7() {
    replay("mysql-9.7", &["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"]);
}

#[test]
fn mysql_9_7_with_gtids() {
    replay("mysql-9.7", &GTIDS);
}

#[test]
fn mariadb_10_5() {
    replay("mariadb-10.5", &[]);
}

#[test]
fn mariadb_10_11() {
    replay("mariadb-10.11", &[]);
}

#[test]
fn mariadb_11_8() {
    replay("mariadb-11.8", &[]);
}
