//! One server under load and one round after the other: load, backup, and what the image is worth.

use crate::check::{self, Expected, Findings};
use crate::client::{Conn, SqlError};
use crate::features::Features;
use crate::image::{self, Manifest};
use crate::installation::copy_tree;
use crate::ledger::{Instant, Pace, now};
use crate::load::Load;
use crate::rng::Rng;
use crate::server::{Options, Server};
use crate::workload::AtRest;
use crate::{built, busy, ddl, nolog, workload};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The binary log of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binlog {
    /// As the server has it without options.
    Default,
    /// On, in the data directory.
    Inside,
    /// On, in a directory of its own: the backup has two sources.
    Outside,
}

/// How the server is run and what a round does.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server's name, as `mysql-9.7`.
    pub server: String,
    /// Compare source and image inside the closed gate.
    pub identity: bool,
    /// The binary log.
    pub binlog: Binlog,
    /// The control: copy without capture.
    pub without_capture: bool,
    /// No backup at all, but `kill -9` of the server and a copy of its data directory: what the checks are worth.
    pub kill9: bool,
    /// The backup's tokudb_backup_lock; the default without.
    pub lock: Option<String>,
    /// Further options of the server.
    pub args: Vec<String>,
    /// Backups that are taken before the one that is checked, back to back.
    pub more_backups: u32,
    /// How long the load runs before the backup, and (a third of it) after.
    pub warm_up: Duration,
    /// Bytes of rows at rest, so that there is something to copy.
    pub filler: u64,
}

impl Settings {
    /// What a round of the soak is.
    pub fn new(server: &str) -> Settings {
        Settings {
            server: server.to_owned(),
            identity: true,
            binlog: Binlog::Default,
            without_capture: false,
            kill9: false,
            lock: None,
            args: Vec::new(),
            more_backups: 0,
            warm_up: Duration::from_millis(900),
            filler: 0,
        }
    }
}

impl Settings {
    /// The server is brought to rest, so that tables without a log can be held to it.
    fn at_rest(&self) -> bool {
        self.lock.as_deref() == Some("ALL")
    }
}

/// What runs beside a backup: with a connection of its own, until the function says that the backup is over.
pub type Beside<'a> = &'a (dyn Fn(&mut Conn, &dyn Fn() -> bool) + Sync);

/// The name of the binary log's files where the server does not give them one.
const BINLOG: &str = "bl";

/// The server under load.
pub struct Lab {
    /// How it is run.
    pub settings: Settings,
    /// The server.
    pub server: Server,
    /// What it can do.
    pub features: Features,
    at_rest: Vec<AtRest>,
    home: PathBuf,
}

/// What a round did.
#[derive(Debug)]
pub struct Round {
    /// Where backup, check and ledger are.
    pub dir: PathBuf,
    /// What the manifest tells; none after `kill -9` and after a failure.
    pub manifest: Option<Manifest>,
    /// How long the backup's statement took.
    pub backup: Duration,
    /// How long the check of the image took, the start of its server included.
    pub check: Duration,
    /// Acknowledged commits of all clients.
    pub commits: usize,
    /// DDL and FLUSH statements that ran.
    pub ddl: u64,
    /// Those of them that ended while the backup ran.
    pub ddl_beside: u64,
    /// Commits before, during and after the backup.
    pub pace: [Pace; 3],
    /// What was looked at and what is wrong.
    pub findings: Findings,
}

impl Lab {
    /// Makes a server in `home`, fills it and installs the plugin.
    ///
    /// # Errors
    /// When any of it fails.
    pub fn new(settings: Settings, home: &Path, seed: u64) -> Result<Lab> {
        let initial = busy::initial_options(&settings.server).iter().map(|option| (*option).to_owned());
        let initial: Vec<String> = initial.collect();
        let mut args = [busy::options(&settings.server), initial.clone(), settings.args.clone()].concat();
        let original = home.join("original");
        let log = match settings.binlog {
            Binlog::Default => None,
            // On by default.
            Binlog::Inside if settings.server == "mysql-9.7" => None,
            Binlog::Inside => Some(BINLOG.to_owned()),
            Binlog::Outside => {
                let dir = original.join("binlog");
                fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
                Some(dir.join(BINLOG).display().to_string())
            }
        };
        if let Some(log) = log {
            args.extend([format!("--log-bin={log}"), "--server-id=1".into()]);
        }
        let plugins = if settings.kill9 { Vec::new() } else { vec![built::plugin()?] };
        let mut options = Options { args, initial, plugins, ..Options::default() };
        let mut set = |name: &str| options.env.push((name.to_owned(), "1".into()));
        set("TOKUDB_BACKUP_TEST");
        if settings.identity && !settings.without_capture {
            set("TOKUDB_BACKUP_TEST_IDENTITY");
        }
        if settings.without_capture {
            set("TOKUDB_BACKUP_TEST_WITHOUT_CAPTURE");
        }
        let mut server = Server::create(&settings.server, &original, options)?;
        server.start()?;
        let mut conn = server.connect()?;
        let features = Features::of(&mut conn)?;
        let at_rest = workload::prepare(&mut conn, &features, &mut Rng::new(seed), settings.filler)?;
        busy::prepare(&mut conn, &features)?;
        if !settings.kill9 {
            conn.exec("INSTALL PLUGIN tokudb_backup SONAME 'tokudb_backup.so'")?;
        }
        Ok(Lab { settings, server, features, at_rest, home: home.to_owned() })
    }

    /// Starts the server again after it was killed, or with another environment.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.server.kill9();
        self.server.start()
    }

    /// Starts the server again so that its backups are made without capture: the control.
    ///
    /// # Errors
    /// When it does not stop or start.
    pub fn copy_without_capture(&mut self) -> Result<()> {
        self.server.stop()?;
        self.server.options.env.push(("TOKUDB_BACKUP_TEST_WITHOUT_CAPTURE".into(), "1".into()));
        self.server.start()
    }

    /// Runs a round of this seed: load, backup, check, each of which `step` is told of. Beside the backup `beside`
    /// runs in a thread of its own.
    ///
    /// # Errors
    /// When something other than what is under test fails.
    pub fn round(&mut self, seed: u64, step: &dyn Fn(&str), beside: Beside) -> Result<Round> {
        if !self.server.is_running() {
            self.restart()?;
        }
        let dir = self.home.join(format!("round-{seed}"));
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let rng = Rng::new(seed);
        let mut conn = self.server.connect()?;
        workload::begin_round(&mut conn, &self.features)?;
        ddl::begin_round(&mut conn, &self.features)?;
        if self.settings.at_rest() {
            nolog::prepare(&mut conn, &self.features)?;
        }
        let base = self.binlog(&mut conn)?;

        step("load");
        // Rows and tags of a round carry its number; an INT column has room for it.
        let number = seed % 1_000_000_000;
        let mut load = Load::new(self.server.conn_options(), number);
        workload::start(&mut load, &self.features, number, &rng)?;
        ddl::start(&mut load, &self.features, &rng)?;
        busy::start(&mut load, &self.features, base.is_some(), &rng)?;
        if self.settings.at_rest() {
            nolog::start(&mut load, &self.features, &rng)?;
        }
        let begun = now();
        std::thread::sleep(self.settings.warm_up);

        step("backup");
        let backup = dir.join("backup");
        for _ in 0..self.settings.more_backups {
            self.back_up(&mut conn, &backup, beside)?;
            fs::remove_dir_all(&backup)?;
        }
        let from = now();
        let ddl_before = load.shared().ddl.load(Ordering::Relaxed);
        let taken = if self.settings.kill9 {
            Ok(self.kill(&mut conn)?)
        } else {
            self.back_up(&mut conn, &backup, beside)
        };
        let to = now();
        let ddl_beside = load.shared().ddl.load(Ordering::Relaxed) - ddl_before;
        if !self.settings.kill9 {
            std::thread::sleep(self.settings.warm_up / 3);
        }
        let ddl = load.shared().ddl.load(Ordering::Relaxed);
        let (ledger, failures) = load.stop();
        let over = now();
        // After kill -9 every client has lost its connection.
        let failures = failures.into_iter().filter(|failure| !(self.settings.kill9 && failure.disconnect));
        let failures = failures.map(|failure| failure.text);
        ledger.write(&dir.join("ledger"))?;
        let mut round = Round {
            dir: dir.clone(),
            manifest: None,
            backup: to - from,
            check: Duration::ZERO,
            commits: ledger.commits(),
            ddl,
            ddl_beside,
            pace: [ledger.pace(begun, from), ledger.pace(from, to), ledger.pace(to, over)],
            findings: Findings::default(),
        };

        step("check");
        let instant = match taken {
            Ok(Some(manifest)) => {
                let instant = Instant::at(manifest.instant);
                round.findings.problems.extend(outside(&manifest, from, to));
                round.manifest = Some(manifest);
                instant
            }
            Ok(None) => {
                fs::create_dir_all(&backup)?;
                copy_tree(self.server.data(), &backup.join(image::DATA))?;
                if let Some(logs) = image::logs_outside(&self.server) {
                    copy_tree(&logs, &backup.join(image::LOGS))?;
                }
                Instant::end()
            }
            Err(error) => {
                round.findings.problems.push(format!("the backup failed: {error}"));
                round.findings.problems.extend(failures);
                return Ok(round);
            }
        };
        let nolog = self.settings.at_rest().then(|| nolog::inserts(&mut conn, &self.features)).transpose()?;
        let began = now();
        let expected = Expected {
            features: &self.features,
            ledger: &ledger,
            instant,
            at_rest: &self.at_rest,
            binlog: base.as_deref(),
            nolog: nolog.as_deref(),
        };
        let findings = check::check(&self.server, &backup, &dir.join("check"), &expected);
        round.check = now() - began;
        round.findings.notes.extend(findings.notes);
        round.findings.problems.extend(findings.problems);
        round.findings.problems.extend(failures);
        if !self.settings.kill9 && !self.server.is_running() {
            round.findings.problems.push(format!("the original server is gone\n{}", self.server.log_tail()));
        }
        Ok(round)
    }

    /// Where the binary log is on: what its files are called. Files of earlier rounds go.
    fn binlog(&self, conn: &mut Conn) -> Result<Option<String>, SqlError> {
        if conn.value("SELECT @@log_bin")?.as_deref() != Some("1") {
            return Ok(None);
        }
        conn.exec("FLUSH LOGS")?;
        let files = conn.query("SHOW BINARY LOGS")?.texts();
        let last = files.last().map(|row| row[0].clone()).unwrap_or_default();
        conn.exec(format!("PURGE BINARY LOGS TO '{last}'"))?;
        Ok(last.rsplit_once('.').map(|(base, _)| base.to_owned()))
    }

    fn back_up(&self, conn: &mut Conn, backup: &Path, beside: Beside) -> Result<Option<Manifest>> {
        let mut watcher = self.server.connect()?;
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watching = scope.spawn(|| beside(&mut watcher, &|| over.load(Ordering::Relaxed)));
            let lock = self.settings.lock.as_deref().unwrap_or("DEFAULT");
            let result = conn.exec(format!("SET tokudb_backup_lock = {lock}"));
            let result =
                result.and_then(|_| conn.exec(format!("SET tokudb_backup_dir = '{}'", backup.display())));
            over.store(true, Ordering::Relaxed);
            if watching.join().is_err() {
                bail!("what runs beside the backup panicked");
            }
            result?;
            Ok(Some(Manifest::read(backup)?))
        })
    }

    /// Kills the server as a power switch would, outside of DDL where it cannot recover from that (P27).
    fn kill(&mut self, conn: &mut Conn) -> Result<Option<Manifest>> {
        if self.features.mariadb {
            for stage in ["START", "FLUSH", "BLOCK_DDL"] {
                conn.exec(format!("BACKUP STAGE {stage}"))?;
            }
        } else if !self.features.atomic_ddl() {
            conn.exec("FLUSH TABLES WITH READ LOCK")?;
        }
        self.server.kill9();
        Ok(None)
    }
}

/// T must lie within the statement.
fn outside(manifest: &Manifest, from: Duration, to: Duration) -> Option<String> {
    let inside = manifest.instant >= from && manifest.instant <= to;
    (!inside).then(|| format!("T is {:?}, the statement ran from {from:?} to {to:?}", manifest.instant))
}
