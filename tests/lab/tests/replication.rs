//! New replicas from backups: of a source, of a replica whose SQL thread was stopped around T, and of one whose SQL
//! thread ran. All catch up under load and have the source's data.

use lab::client::Conn;
use lab::image;
use lab::load::Load;
use lab::replication::{self, Begin, Words, field};
use lab::rng::Rng;
use lab::scratch::Scratch;
use lab::server::{Options, Server};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SEED: u64 = 4712;
/// Longest wait for what should come soon.
const PATIENCE: Duration = Duration::from_secs(30);

/// A source, a replica of it, and a place for more.
struct Pair {
    scratch: Scratch,
    port: u16,
    source: Server,
    replica: Server,
    gtids: bool,
    /// Name of the replica's connection.
    channel: &'static str,
}

impl Pair {
    fn new(name: &str, channel: &'static str, more: &[&str]) -> Pair {
        let scratch = Scratch::new(&format!("replication-{name}")).unwrap();
        let ports = [replication::free_port().unwrap(), replication::free_port().unwrap()];
        let [source, replica] = [1, 2].map(|id: u32| {
            let mut args = replication::options(id, ports[id as usize - 1]);
            args.extend(more.iter().map(|arg| (*arg).to_owned()));
            let plugins = vec![lab::built::plugin().unwrap()];
            let home = scratch.path().join(id.to_string());
            let mut server =
                Server::create(name, &home, Options { args, plugins, ..Options::default() }).unwrap();
            server.start().unwrap();
            let install = "INSTALL PLUGIN tokudb_backup SONAME 'tokudb_backup.so'";
            server.connect().unwrap().exec(install).unwrap();
            server
        });
        replication::follow(&replica, ports[0], channel, Begin::Position("bl.000001", 4)).unwrap();
        let mut conn = source.connect().unwrap();
        replication::admit_replicas(&mut conn).unwrap();
        replication::prepare(&mut conn).unwrap();
        let mut pair = Pair { scratch, port: ports[0], source, replica, gtids: !more.is_empty(), channel };
        pair.gtids |= pair.source.installation.is_mariadb();
        pair
    }

    /// A server over a backup of either, as number `id`, that replicates nothing yet.
    fn restore(&self, of: &Server, backup: &Path, id: u32) -> Server {
        let mut server =
            image::place(of, backup, &self.scratch.path().join(format!("restored-{id}"))).unwrap();
        replication::forget_identity(server.data()).unwrap();
        server.options.args.extend(replication::options(id, replication::free_port().unwrap()));
        let replica = Words::of(&server).replica().to_lowercase();
        server.options.args.push(format!("--skip-{replica}-start"));
        server.start().unwrap();
        server
    }

    fn back_up(&self, of: &Server, name: &str) -> PathBuf {
        let backup = self.scratch.path().join(name);
        of.connect().unwrap().exec(set_dir(&backup)).unwrap();
        backup
    }
}

fn set_dir(backup: &Path) -> String {
    format!("SET tokudb_backup_dir = '{}'", backup.display())
}

fn read(backup: &Path, name: &str) -> String {
    let text = fs::read_to_string(backup.join(name)).unwrap();
    println!("{name}: {text}");
    text
}

fn value(server: &Server, sql: &str) -> String {
    server.connect().unwrap().value(sql).unwrap().unwrap_or_default().replace('\n', "")
}

/// A replica's copy forgets what it replicated.
fn reset(server: &Server, channel: &str) {
    let name = channel.replace('\'', "''");
    let statement = match &*server.installation.name {
        "mysql-5.6.24" => "RESET SLAVE ALL".to_owned(),
        "mysql-9.7" => format!("RESET REPLICA ALL FOR CHANNEL '{name}'"),
        _ => format!("RESET SLAVE '{name}' ALL"),
    };
    server.connect().unwrap().exec(statement).unwrap();
}

fn new_replicas(name: &str, channel: &'static str, more: &[&str]) {
    let pair = Pair::new(name, channel, more);
    let mariadb = pair.source.installation.is_mariadb();
    println!("seed {SEED}");
    let mut load = Load::new(pair.source.conn_options(), 1);
    replication::start(&mut load, 1, &Rng::new(SEED)).unwrap();
    std::thread::sleep(Duration::from_millis(500));

    let of_source = pair.back_up(&pair.source, "of-source");
    assert!(!of_source.join("tokubackup_slave_info").exists(), "a source is no replica");
    pair.replica.connect().unwrap().exec("SET GLOBAL tokudb_backup_safe_slave = ON").unwrap();
    let at_rest = pair.back_up(&pair.replica, "at-rest");
    assert!(runs(&mut pair.replica.connect().unwrap()), "the SQL thread goes on");
    pair.replica.connect().unwrap().exec("SET GLOBAL tokudb_backup_safe_slave = DEFAULT").unwrap();
    let running = pair.back_up(&pair.replica, "running");

    // From the source, by GTIDs where there are any.
    let mut servers = Vec::new();
    let info = read(&of_source, "tokubackup_binlog_info");
    let server = pair.restore(&pair.source, &of_source, 3);
    let begin = if pair.gtids {
        if mariadb {
            let gtid = field(&info, "GTID of last change").unwrap();
            server.connect().unwrap().exec(format!("SET GLOBAL gtid_slave_pos = '{gtid}'")).unwrap();
        }
        Begin::Gtid
    } else {
        Begin::Position(field(&info, "filename").unwrap(), field(&info, "position").unwrap().parse().unwrap())
    };
    replication::follow(&server, pair.port, "", begin).unwrap();
    servers.push(server);

    // From the replica at rest: the position is exact.
    let info = read(&at_rest, "tokubackup_slave_info");
    assert!(info.lines().last().unwrap().starts_with("# exact"), "{info}");
    let line = info.lines().next().unwrap();
    assert_eq!(
        [field(line, "host"), field(line, "user"), field(line, "channel name")],
        [Some("127.0.0.1"), Some("repl"), Some(channel)]
    );
    assert_eq!(field(line, "port").unwrap(), pair.port.to_string());
    let file = field(line, "master log file").unwrap();
    let position = field(line, "exec master log pos").unwrap();
    let server = pair.restore(&pair.replica, &at_rest, 4);
    if name != "mysql-5.6.24" || pair.gtids {
        let variable = if mariadb { "@@GLOBAL.gtid_slave_pos" } else { "@@GLOBAL.gtid_executed" };
        let sets = line.split_once("executed gtid set: ").unwrap().1.rsplit_once(", channel name").unwrap().0;
        assert_eq!(value(&server, &format!("SELECT {variable}")), sets);
        assert_eq!(sets.is_empty(), !pair.gtids);
    }
    if name == "mysql-9.7" {
        let own = "SELECT CONCAT(Master_log_name, ' ', Master_log_pos) FROM mysql.slave_relay_log_info";
        assert_eq!(value(&server, own), format!("{file} {position}"));
    }
    reset(&server, channel);
    replication::follow(&server, pair.port, "", Begin::Position(file, position.parse().unwrap())).unwrap();
    servers.push(server);

    // From the running replica: by what it has itself.
    let info = read(&running, "tokubackup_slave_info");
    assert!(info.lines().last().unwrap().starts_with("# as of a moment before"), "{info}");
    if pair.gtids {
        let server = pair.restore(&pair.replica, &running, 5);
        reset(&server, channel);
        replication::follow(&server, pair.port, "", Begin::Gtid).unwrap();
        servers.push(server);
    }

    let (_, failures) = load.stop();
    assert!(failures.is_empty(), "{failures:?}");
    let expected = replication::checksums(&mut pair.source.connect().unwrap()).unwrap();
    for (server, channel) in servers.iter().map(|server| (server, "")).chain([(&pair.replica, channel)]) {
        replication::catch_up(&pair.source, server, channel).unwrap();
        let found = replication::checksums(&mut server.connect().unwrap()).unwrap();
        assert_eq!(found, expected, "{}", server.home().display());
    }
    drop(servers);
    temporary_tables(&pair);
}

/// Whether the SQL thread runs.
fn runs(conn: &mut Conn) -> bool {
    let statements = ["SHOW ALL SLAVES STATUS", "SHOW REPLICA STATUS", "SHOW SLAVE STATUS"];
    let answer = statements.iter().find_map(|sql| conn.query(sql).ok()).unwrap();
    let column = answer.columns.iter().position(|name| name.ends_with("_SQL_Running")).unwrap();
    answer.texts()[0][column] == "Yes"
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// With a temporary table of the SQL thread there is no backup at rest; whatever becomes of it, the thread runs.
fn temporary_tables(pair: &Pair) {
    let mut source = pair.source.connect().unwrap();
    source.exec("SET SESSION binlog_format = STATEMENT").unwrap();
    source.exec("CREATE TEMPORARY TABLE r.temporary (a INT PRIMARY KEY) ENGINE=InnoDB").unwrap();
    source.exec("INSERT INTO r.temporary VALUES (1)").unwrap();
    replication::catch_up(&pair.source, &pair.replica, pair.channel).unwrap();
    let mut conn = pair.replica.connect().unwrap();
    let mut look = pair.replica.connect().unwrap();
    conn.exec("SET GLOBAL tokudb_backup_safe_slave = ON").unwrap();

    let error = conn.exec(set_dir(&pair.scratch.path().join("once"))).unwrap_err();
    assert!(error.message.contains("temporary tables"), "{error}");
    let errno = conn.value("SELECT @@tokudb_backup_last_error").unwrap();
    assert_eq!(errno.as_deref(), Some(&*libc::ETIMEDOUT.to_string()));
    assert!(runs(&mut look));

    conn.exec("SET GLOBAL tokudb_backup_safe_slave_timeout = 60").unwrap();
    let mut waiting = |name: &str| {
        let mut session = pair.replica.connect().unwrap();
        let (id, sql) = (session.id(), set_dir(&pair.scratch.path().join(name)));
        let backup = std::thread::spawn(move || session.exec(sql).map(drop));
        let state = format!("SELECT STATE FROM information_schema.PROCESSLIST WHERE ID = {id}");
        wait_for("the wait for temporary tables", || {
            look.value(&state).unwrap().unwrap_or_default().contains("SQL threads")
        });
        (id, backup)
    };
    let (id, backup) = waiting("killed");
    conn.exec(format!("KILL QUERY {id}")).unwrap();
    assert_eq!(backup.join().unwrap().unwrap_err().code, 1317);
    wait_for("the SQL thread", || runs(&mut conn));

    let (_, backup) = waiting("waited");
    source.exec("DROP TEMPORARY TABLE r.temporary").unwrap();
    backup.join().unwrap().unwrap();
    assert!(runs(&mut conn));
    assert!(read(&pair.scratch.path().join("waited"), "tokubackup_slave_info").contains("# exact"));

    // Killed while DDL is held off, where that is done.
    if pair.source.installation.name != "mysql-9.7" {
        let mut holder = pair.replica.connect().unwrap();
        holder.exec("SET SESSION sql_log_bin = 0").unwrap();
        holder.exec("CREATE TABLE r.held (a INT)").unwrap();
        holder.exec("LOCK TABLES r.held WRITE").unwrap();
        let mut session = pair.replica.connect().unwrap();
        let (id, sql) = (session.id(), set_dir(&pair.scratch.path().join("killed-late")));
        let backup = std::thread::spawn(move || session.exec(sql).map(drop));
        wait_for("the SQL thread to stop", || !runs(&mut conn));
        wait_for("the wait for DDL", || {
            let state = format!("SELECT STATE FROM information_schema.PROCESSLIST WHERE ID = {id}");
            let state = conn.value(state).unwrap().unwrap_or_default();
            state.contains("no DDL runs") || state.contains("global read lock")
        });
        assert!(!runs(&mut conn));
        conn.exec(format!("KILL QUERY {id}")).unwrap();
        assert_eq!(backup.join().unwrap().unwrap_err().code, 1317);
        wait_for("the SQL thread", || runs(&mut conn));
    }
    replication::catch_up(&pair.source, &pair.replica, pair.channel).unwrap();
}

#[test]
fn mysql_5_6() {
    new_replicas("mysql-5.6.24", "", &[]);
}

#[test]
fn mysql_9_7() {
    new_replicas("mysql-9.7", "c1", &["--gtid-mode=ON", "--enforce-gtid-consistency=ON"]);
}

#[test]
fn mariadb_11_8() {
    new_replicas("mariadb-11.8", "c'1", &[]);
}
