//! The second oracle: a server over a copy of the image tells whether everything is there and whole.

use crate::client::{Conn, SqlError};
use crate::features::Features;
use crate::ledger::{Instant, Journals, Ledger};
use crate::server::Server;
use crate::workload::{AtRest, HOT_MYISAM, JOURNAL, JOURNAL_ARIA, JOURNAL_MYISAM, TOTAL};
use crate::{binlog, busy, ddl, image, nolog, workload};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// What an image is held against.
pub struct Expected<'a> {
    /// What the server can do.
    pub features: &'a Features,
    /// What the clients know.
    pub ledger: &'a Ledger,
    /// Which of it must be there.
    pub instant: Instant,
    /// The tables at rest, with their checksums.
    pub at_rest: &'a [AtRest],
    /// The name of the binary log's files, without the number, when it is on.
    pub binlog: Option<&'a str>,
    /// The server was at rest: tables without a log are whole as well, and those of `nolog` have what the original's
    /// have.
    pub nolog: Option<&'a [nolog::Inserts]>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// What is wrong.
    pub problems: Vec<String>,
    /// What was looked at, in words.
    pub notes: Vec<String>,
}

impl Findings {
    fn add(&mut self, result: Result<Vec<String>>, what: &str) {
        match result {
            Ok(problems) if problems.is_empty() => self.notes.push(what.to_owned()),
            Ok(problems) => self.problems.extend(problems),
            Err(error) => self.problems.push(format!("{what}: {error:#}")),
        }
    }
}

/// Starts a server over a copy of the backup (in `home`), checks everything, and stops it again.
pub fn check(original: &Server, backup: &Path, home: &Path, expected: &Expected) -> Findings {
    let mut findings = Findings::default();
    let mut server = match image::boot(original, backup, home) {
        Ok(server) => server,
        Err(error) => {
            findings.problems.push(format!("the image does not start: {error:#}"));
            return findings;
        }
    };
    let opened =
        |server: &Server| image::files_in_use(server.pid().context("the server is gone")?, original.home());
    let checked = check_running(&mut server, 0, expected, &mut findings);
    let checked = checked.map(|()| findings.add(opened(&server), "opens no file of the original's"));
    if let Err(error) = checked {
        findings.problems.push(format!("{error:#}\n{}", server.log_tail()));
    }
    match server.stop() {
        Ok(()) => {
            if let Some(found) = checksums(&server).transpose() {
                findings.add(found, "innochecksum finds nothing wrong with InnoDB's pages");
            }
        }
        Err(error) => findings.problems.push(format!("{error:#}")),
    }
    findings
}

/// Checks a server that was killed and runs again over its own data; its error log had `log` bytes when it was killed.
pub fn check_restarted(server: &mut Server, log: u64, expected: &Expected) -> Findings {
    let mut findings = Findings::default();
    if let Err(error) = check_running(server, log, expected, &mut findings) {
        findings.problems.push(format!("{error:#}\n{}", server.log_tail()));
    }
    findings
}

fn check_running(server: &mut Server, log: u64, expected: &Expected, findings: &mut Findings) -> Result<()> {
    findings.add(complaints(server, log), "recovers without an error in its log");
    let conn = &mut server.connect()?;
    if let Some(base) = expected.binlog {
        let logs = image::logs_outside(server).unwrap_or_else(|| server.data().to_owned());
        let found = same_end(conn, &logs, base, expected.ledger.round);
        findings.add(found, "the binary log ends at the same transaction as InnoDB");
    }
    if let Some(original) = expected.nolog {
        let found = nolog::check(conn, expected.features, original).map_err(Into::into);
        findings
            .add(found, "tables without a log are closed properly, and no statement on them is half done");
    }
    let mut broken = check_tables(conn, expected)?;
    if expected.nolog.is_some() {
        let hot = std::mem::take(&mut broken.hot);
        broken.others.extend(hot.iter().map(|table| format!("{table} was not closed properly")));
    }
    let repaired = repair(conn, broken.hot)?;
    if repaired.mended > 0 {
        findings
            .notes
            .push(format!("{} MyISAM tables were being written: REPAIR mended them", repaired.mended));
    }
    findings.add(
        Ok([broken.others, repaired.lost].concat()),
        &format!("CHECK TABLE EXTENDED is OK for {} tables", broken.checked),
    );
    let sums = workload::checksums(conn)?;
    findings.add(Ok(differences(expected.at_rest, &sums)), "the tables at rest have the same checksums");
    findings.add(sum_of_accounts(conn), "the sum over all accounts is what it was");
    let journals = read_journals(conn, expected.ledger.round, expected.features)?;
    findings.add(
        Ok(expected.ledger.compare(expected.instant, &journals)),
        "every commit acknowledged before T is there, and none begun after it",
    );
    findings.add(big_rows(conn), "big rows have their digests");
    findings.add(
        busy::check(conn).map_err(Into::into),
        "rows of short transactions are whole, and one over all rows is there wholly or not at all",
    );
    findings.add(Ok(ddl::check_ring(conn)?.into_iter().collect()), "renamed tables are all there, once");
    Ok(())
}

/// Lines of the error log, from byte `from` on, that a clean crash recovery does not write.
fn complaints(server: &Server, from: u64) -> Result<Vec<String>> {
    let path = server.error_log();
    let log = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let log = String::from_utf8_lossy(log.get(usize::try_from(from)?..).unwrap_or_default());
    let bad = log.lines().filter(|line| is_complaint(line)).take(10);
    Ok(bad.map(|line| format!("error log: {line}")).collect())
}

fn is_complaint(line: &str) -> bool {
    // What a MyISAM table that was open for writing says when it is opened.
    let hot =
        HOT_MYISAM.iter().any(|table| line.contains(table)) || ddl::STORM.iter().any(|d| line.contains(d));
    if hot && (line.contains("is marked as crashed") || line.contains("Incorrect key file")) {
        return false;
    }
    // MySQL 9 says this of names that a table had before RENAME took it to another database, and goes on well.
    let mut names = ddl::STORM.iter().chain(&ddl::RING).flat_map(|db| [format!(" {db}/"), format!("'{db}/")]);
    if ["[MY-013589]", "[MY-012351]"].iter().any(|number| line.contains(number))
        && names.any(|n| line.contains(&n))
    {
        return false;
    }
    // A large event that the server was writing to the binary log at that instant: recovery cuts it off.
    if line.contains("read_log_event(): 'Event truncated'") {
        return false;
    }
    let lower = line.to_lowercase();
    ["[error]", "corrupt", "could not find", "in the future", "innodb: error", "assertion", "missing"]
        .iter()
        .any(|pattern| lower.contains(pattern))
}

/// What InnoDB's own tool says of a server that was stopped.
fn checksums(server: &Server) -> Result<Option<Vec<String>>> {
    let mut files = Vec::new();
    let mut directories = vec![server.data().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            } else if name.ends_with(".ibd")
                || name.ends_with(".ibu")
                || name.starts_with("undo")
                || name == "ibdata1"
            {
                files.push(entry.path());
            }
        }
    }
    server.installation.innochecksum(&files)
}

/// What CHECK TABLE found.
#[derive(Default)]
struct Checked {
    checked: usize,
    /// Tables of engines without recovery that complained: as after any crash, REPAIR is for them.
    hot: Vec<String>,
    /// Complaints that must not be.
    others: Vec<String>,
}

/// CHECK TABLE ... EXTENDED of every table.
fn check_tables(conn: &mut Conn, expected: &Expected) -> Result<Checked, SqlError> {
    let tables = conn.query(
        "SELECT table_schema, table_name, COALESCE(engine, '-'), COALESCE(create_options, ''), \
         COALESCE(table_comment, '') FROM information_schema.tables WHERE table_type = 'BASE TABLE' AND table_schema \
         NOT IN ('information_schema', 'performance_schema', 'sys')",
    )?;
    let mut found = Checked::default();
    for row in tables.texts() {
        let [schema, name, engine, options, comment] = &row[..] else { continue };
        let table = format!("`{schema}`.`{name}`");
        let storm = ddl::STORM.contains(&schema.as_str());
        let bank = schema == "bank" && HOT_MYISAM.contains(&name.as_str());
        let unsafe_engine = engine == "MyISAM" || engine == "Aria" && !is_transactional(options);
        let answer = conn.query(format!("CHECK TABLE {table} EXTENDED"))?;
        found.checked += 1;
        let complaints: Vec<String> = answer
            .texts()
            .iter()
            .filter(|row| !is_fine(&row[2], &row[3]))
            .map(|row| format!("{} ({engine}): {} {}", table, row[2], row[3]))
            .collect();
        if complaints.is_empty() {
            continue;
        }
        if storm && expected.features.atomic_ddl() && engine != "InnoDB" && expected.nolog.is_none() {
            // MySQL does not undo a crash within DDL of these engines.
            continue;
        }
        if bank || storm && unsafe_engine {
            found.hot.push(table);
        } else {
            found.others.extend(complaints);
            if engine == "-" {
                found.others.push(format!("{table}: {comment}"));
            }
        }
    }
    Ok(found)
}

fn is_transactional(options: &str) -> bool {
    options.to_lowercase().contains("transactional=1")
}

fn is_fine(kind: &str, text: &str) -> bool {
    // What is marked as deleted and was not purged: a record of a secondary index whose row is gone (MariaDB's purge
    // leaves some, in the original too), and a row itself, for a while after a start.
    let left = ["Clustered index record not found", "Unpurged clustered index record"];
    if left.iter().any(|left| text.contains(left)) && text.contains("(info_bits=32") {
        return true;
    }
    kind.eq_ignore_ascii_case("note") || text == "OK" || text == "Table is already up to date"
}

/// What REPAIR TABLE did.
#[derive(Default)]
struct Repaired {
    mended: usize,
    lost: Vec<String>,
}

fn repair(conn: &mut Conn, tables: Vec<String>) -> Result<Repaired, SqlError> {
    let mut repaired = Repaired::default();
    for table in tables {
        let said = conn.query(format!("REPAIR TABLE {table}"))?.texts();
        let after = conn.query(format!("CHECK TABLE {table} EXTENDED"))?.texts();
        match after.last() {
            Some(row) if row[3] == "OK" => repaired.mended += 1,
            _ => repaired.lost.push(format!("{table}: REPAIR says {said:?}, CHECK after it {after:?}")),
        }
    }
    Ok(repaired)
}

fn differences(expected: &[AtRest], found: &[AtRest]) -> Vec<String> {
    let differ = expected.iter().filter(|table| !found.contains(table));
    differ.map(|(table, sum)| format!("{table} should have the checksum {sum}, found: {found:?}")).collect()
}

fn sum_of_accounts(conn: &mut Conn) -> Result<Vec<String>> {
    let tables = conn.query("SHOW TABLES FROM bank LIKE 'accounts%'")?.texts();
    let parts: Vec<String> =
        tables.iter().flatten().map(|table| format!("(SELECT SUM(balance) FROM bank.{table})")).collect();
    let sum = conn.value(format!("SELECT {}", parts.join(" + ")))?.unwrap_or_default();
    Ok(if sum == TOTAL.to_string() {
        Vec::new()
    } else {
        vec![format!("the accounts hold {sum}, not {TOTAL}")]
    })
}

fn read_journals(conn: &mut Conn, round: u64, features: &Features) -> Result<Journals, SqlError> {
    let mut tables = vec![JOURNAL, JOURNAL_MYISAM];
    if features.has("Aria") {
        tables.push(JOURNAL_ARIA);
    }
    let mut journals = Journals::new();
    for table in tables {
        for (client, seq) in journal(conn, table, round)? {
            journals.entry((table.to_owned(), client)).or_default().push(seq);
        }
    }
    Ok(journals)
}

fn journal(conn: &mut Conn, table: &str, round: u64) -> Result<Vec<(u32, u64)>, SqlError> {
    let rows = conn.query(format!("SELECT client, seq FROM {table} WHERE round = {round}"))?.texts();
    Ok(rows.iter().filter_map(|row| Some((row[0].parse().ok()?, row[1].parse().ok()?))).collect())
}

/// Compares the journal with the binary log, transaction by transaction, from the first one on that no purge took.
fn same_end(conn: &mut Conn, logs: &Path, base: &str, round: u64) -> Result<Vec<String>> {
    let mut innodb = journal(conn, JOURNAL, round)?;
    let logged = binlog::transactions(logs, base, round)?;
    let oldest =
        |client: &u32| logged.get(client).and_then(|seqs| seqs.iter().min()).copied().unwrap_or(u64::MAX);
    innodb.retain(|(client, seq)| *seq >= oldest(client));
    let mut logged: Vec<(u32, u64)> = logged
        .into_iter()
        .flat_map(|(client, seqs)| seqs.into_iter().map(move |seq| (client, seq)))
        .collect();
    innodb.sort_unstable();
    logged.sort_unstable();
    let only = |these: &[(u32, u64)], others: &[(u32, u64)]| -> Vec<(u32, u64)> {
        these.iter().filter(|one| others.binary_search(one).is_err()).take(5).copied().collect()
    };
    let (unlogged, unknown) = (only(&innodb, &logged), only(&logged, &innodb));
    if innodb == logged && !innodb.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "InnoDB has {} transactions, the binary log {}: only in InnoDB (client, number) {unlogged:?}, only in the \
         binary log {unknown:?}",
        innodb.len(),
        logged.len()
    )])
}

fn big_rows(conn: &mut Conn) -> Result<Vec<String>> {
    let rows = conn.query("SELECT id FROM bank.big WHERE CRC32(data) <> digest")?.texts();
    Ok(rows.into_iter().flatten().map(|id| format!("bank.big: row {id} is not what was inserted")).collect())
}
