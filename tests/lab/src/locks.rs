//! What `tokudb_backup_lock` costs other clients while a long statement runs: the numbers of docs/locks.md.

use crate::built;
use crate::client::{Conn, SqlError};
use crate::image::Manifest;
use crate::scratch::Scratch;
use crate::server::{Options, Server};
use anyhow::{Context, Result, bail};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The table of the long statement has 2 to the power of this many rows.
const DOUBLINGS: u32 = 19;
/// How long a long statement has run when the backup starts: longer than what the backup takes for old.
const OLD: Duration = Duration::from_secs(3);
/// After the backup and the long statement have ended, who still hangs is seen.
const AFTER: Duration = Duration::from_millis(1500);
/// Longest wait for an expected state.
const PATIENCE: Duration = Duration::from_secs(60);

/// A statement that takes long.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Long {
    Select,
    /// Begun so shortly before the lock that it is not known to be long.
    YoungSelect,
    Update,
    /// Of a table without a log.
    UpdateMyisam,
    Alter,
}

impl Long {
    fn name(self) -> &'static str {
        match self {
            Long::Select => "SELECT",
            Long::YoungSelect => "young SELECT",
            Long::Update => "UPDATE",
            Long::UpdateMyisam => "UPDATE of MyISAM",
            Long::Alter => "ALTER",
        }
    }

    fn sql(self) -> &'static str {
        match self {
            Long::Select | Long::YoungSelect => "SELECT SLEEP(0.1) FROM d.big WHERE id <= 80",
            Long::Update => "UPDATE d.big SET v = v + SLEEP(0.1) WHERE id <= 80",
            Long::UpdateMyisam => "UPDATE d.myisam_big SET v = v + SLEEP(0.1) WHERE id <= 80",
            Long::Alter => "ALTER TABLE d.big FORCE, ALGORITHM=COPY",
        }
    }
}

/// What the clients do, each again and again, and its name.
const CLIENTS: [(&str, &[&str]); 6] = [
    ("read it", &["SELECT v FROM d.big WHERE id = 2000"]),
    ("read", &["SELECT v FROM d.small WHERE id = 1"]),
    ("write it", &["UPDATE d.big SET v = v + 1 WHERE id = 3000"]),
    ("write", &["UPDATE d.small SET v = v + 1 WHERE id = 1"]),
    ("write MyISAM", &["UPDATE d.myisam SET v = v + 1 WHERE id = 1"]),
    ("DDL", &["CREATE TABLE d.come (a INT)", "DROP TABLE d.come"]),
];

/// Measures every combination on one server and prints a table.
///
/// # Errors
/// When anything but what is measured fails.
pub fn run(name: &str) -> Result<bool> {
    let scratch = Scratch::new(&format!("cost-{name}"))?;
    let options = Options { plugins: vec![built::plugin()?], ..Options::default() };
    let mut server = Server::create(name, scratch.path(), options)?;
    server.start()?;
    let mut conn = server.connect()?;
    conn.exec("INSTALL PLUGIN tokudb_backup SONAME 'tokudb_backup.so'")?;
    prepare(&mut conn)?;
    let columns: Vec<&str> = CLIENTS.iter().map(|(name, _)| *name).collect();
    println!("| {name}: lock | beside | it took | backup | held | {} |", columns.join(" | "));
    println!("|---|---|---|---|---|{}", "---|".repeat(columns.len()));
    let mut all_well = true;
    for long in [Long::Select, Long::YoungSelect, Long::Update, Long::UpdateMyisam, Long::Alter] {
        for lock in ["OFF", "DDL", "ALL"] {
            if long == Long::YoungSelect && lock != "ALL" {
                continue;
            }
            let dir = scratch.path().join(format!("{}-{lock}", long.name().replace(' ', "-")));
            let row = measure(&server, &mut conn, long, lock, &dir)?;
            println!("{}", row.text);
            all_well &= row.succeeded;
        }
    }
    server.stop()?;
    Ok(all_well)
}

fn prepare(conn: &mut Conn) -> Result<(), SqlError> {
    conn.exec("CREATE DATABASE d")?;
    let tables = [
        ("big", "InnoDB"),
        ("small", "InnoDB"),
        ("holder", "InnoDB"),
        ("myisam", "MyISAM"),
        ("myisam_big", "MyISAM"),
    ];
    for (table, engine) in tables {
        conn.exec(format!(
            "CREATE TABLE d.{table} (id INT AUTO_INCREMENT PRIMARY KEY, v INT NOT NULL, pad CHAR(80) NOT NULL DEFAULT \
             'p') ENGINE={engine}"
        ))?;
        conn.exec(format!("INSERT INTO d.{table} (v) VALUES (1)"))?;
    }
    for _ in 0..DOUBLINGS {
        conn.exec("INSERT INTO d.big (v) SELECT v FROM d.big")?;
    }
    conn.exec("INSERT INTO d.myisam_big (v) SELECT v FROM d.big LIMIT 100").map(drop)
}

struct Row {
    text: String,
    succeeded: bool,
}

fn measure(server: &Server, conn: &mut Conn, long: Long, lock: &str, dir: &std::path::Path) -> Result<Row> {
    let over = Arc::new(AtomicBool::new(false));
    let start = || -> Result<JoinHandle<Result<Duration, SqlError>>> {
        let mut conn = server.connect()?;
        Ok(std::thread::spawn(move || timed(|| conn.query(long.sql()).map(drop))))
    };
    let back_up = || -> Result<JoinHandle<Result<Duration, SqlError>>> {
        let mut conn = server.connect()?;
        let (lock, dir) = (lock.to_owned(), dir.display().to_string());
        Ok(std::thread::spawn(move || {
            conn.exec(format!("SET tokudb_backup_lock = {lock}"))?;
            timed(|| conn.exec(format!("SET tokudb_backup_dir = '{dir}'")).map(drop))
        }))
    };
    let (statement, backup, clients);
    if long == Long::YoungSelect {
        // Somebody else keeps the lock from being got until the statement has just begun.
        let mut holder = server.connect()?;
        holder.exec("LOCK TABLES d.holder WRITE")?;
        backup = back_up()?;
        wait_until("the backup to wait", || {
            let sql = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE STATE LIKE '%is at rest%' OR STATE \
                       LIKE '%global read lock%'";
            Ok(conn.value(sql)?.as_deref() != Some("0"))
        })?;
        clients = spawn_clients(server, &over)?;
        statement = start()?;
        std::thread::sleep(Duration::from_millis(200));
        holder.exec("UNLOCK TABLES")?;
    } else {
        statement = start()?;
        std::thread::sleep(OLD);
        clients = spawn_clients(server, &over)?;
        backup = back_up()?;
    }
    let backup = backup.join().ok().context("the backup's client panicked")?;
    let statement = statement.join().ok().context("the long statement's client panicked")??;
    std::thread::sleep(AFTER);
    over.store(true, Ordering::Relaxed);
    let mut cells = Vec::new();
    for client in clients {
        cells.push(seconds(client.join().ok().context("a client panicked")??));
    }
    let (took, held) = match &backup {
        Ok(took) => (seconds(*took), format!("{} ms", Manifest::read(dir)?.lock_micros / 1000)),
        Err(error) => (format!("failed: {}", error.message), "-".to_owned()),
    };
    let text = format!(
        "| {lock} | {} | {} | {took} | {held} | {} |",
        long.name(),
        seconds(statement),
        cells.join(" | ")
    );
    Ok(Row { text, succeeded: backup.is_ok() })
}

/// The longest that each client waited for one statement.
type Clients = Vec<JoinHandle<Result<Duration, SqlError>>>;

fn spawn_clients(server: &Server, over: &Arc<AtomicBool>) -> Result<Clients> {
    let spawn = |(_, statements): (&str, &'static [&'static str])| {
        let (mut conn, over) = (server.connect()?, Arc::clone(over));
        Ok(std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                for statement in statements {
                    longest = longest.max(timed(|| conn.query(statement).map(drop))?);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(longest)
        }))
    };
    CLIENTS.into_iter().map(spawn).collect()
}

fn timed(work: impl FnOnce() -> Result<(), SqlError>) -> Result<Duration, SqlError> {
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed())
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn wait_until(what: &str, mut condition: impl FnMut() -> Result<bool, SqlError>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !condition()? {
        if Instant::now() >= end {
            bail!("waited in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
