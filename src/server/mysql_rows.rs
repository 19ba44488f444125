//! SQL that returns rows, on MySQL 5.6: in the session that takes the backup, which has no other way.

use std::ffi::{CStr, OsStr, c_int};
use std::os::unix::ffi::OsStrExt;

use tokudb_backup_abi::common::Thd;
use tokudb_backup_abi::mysql_5_6::{EdResultSet, LexString};

use super::Host;
use super::files::{ServerFiles, text as text_variable};
use super::mysql_session::execute_then;
use super::replica::{Channel, Dialect, Sql, Table};
use super::symbols::function;
use crate::engine::error::{Error, Result};

/// OPTION_NOT_AUTOCOMMIT, OPTION_BEGIN, OPTION_TABLE_LOCK (sql_const.h, the same in all versions).
const IN_TRANSACTION: i64 = 1 << 19 | 1 << 20 | 1 << 21;

/// The session, while its statement runs.
pub struct OwnSession {
    /// The calling thread's.
    pub thd: Thd,
    /// An old MySQL.
    pub host: Host,
}

impl OwnSession {
    /// EBUSY when statements that commit (START SLAVE, STOP SLAVE) would end a transaction of the user's.
    pub fn refuse_in_transaction(&self) -> Result<()> {
        if self.in_transaction() {
            let text = "tokudb_backup_safe_slave stops the SQL thread by a statement that would commit this session's \
                        transaction: COMMIT, UNLOCK TABLES and SET autocommit=1 first";
            return Err(Error::new(libc::EBUSY, text));
        }
        Ok(())
    }

    /// Whether the user has begun a transaction, may have one without having begun it, or holds LOCK TABLES.
    fn in_transaction(&self) -> bool {
        // SAFETY: `int thd_test_options(const THD *, long long)` (plugin.h, sql_class.cc).
        let test: Option<unsafe extern "C" fn(Thd, i64) -> c_int> =
            unsafe { function(&[c"thd_test_options"]) };
        // SAFETY: the session is this thread's.
        test.is_none_or(|test| unsafe { test(self.thd, IN_TRANSACTION) } != 0)
    }

    /// The first row of a query.
    fn row(&self, sql: &CStr) -> Result<Option<Vec<String>>> {
        Ok(self.run(sql)?.rows.into_iter().next())
    }
}

impl Sql for OwnSession {
    fn run(&self, sql: &CStr) -> Result<Table> {
        let mut table = Table::default();
        let succeeded = execute_then(self.thd, &self.host, sql, |connection| {
            // SAFETY: the connection has just executed a statement and is not freed before this returns.
            table.rows = unsafe { rows(&connection.object, self.thd) }.unwrap_or_default();
        });
        if !succeeded {
            let sql = sql.to_string_lossy();
            return Err(Error::new(
                libc::EIO,
                format!("{sql} failed: is this user allowed to do it (SUPER)?"),
            ));
        }
        Ok(table)
    }

    /// SHOW SLAVE STATUS would write to the client, past the connection: so the repositories are read, tables or
    /// files in the data directory.
    fn channels(&self, _dialect: Dialect) -> Result<Vec<Channel>> {
        const STATE: &CStr = c"SELECT @@GLOBAL.master_info_repository, @@GLOBAL.relay_log_info_repository, \
            @@GLOBAL.gtid_executed, CONCAT(EXISTS (SELECT * FROM performance_schema.threads \
            WHERE NAME = 'thread/sql/slave_sql') OR EXISTS (SELECT * FROM information_schema.GLOBAL_STATUS \
            WHERE VARIABLE_NAME = 'SLAVE_RUNNING' AND VARIABLE_VALUE = 'ON'))";
        const SOURCE: &CStr = c"SELECT Host, User_name, CONCAT(Port), CONCAT(Enabled_auto_position) \
            FROM mysql.slave_master_info";
        const DONE: &CStr = c"SELECT Relay_log_name, Master_log_name, CONCAT(Master_log_pos) \
            FROM mysql.slave_relay_log_info";
        let state = self
            .row(STATE)?
            .ok_or_else(|| Error::new(libc::ENOTSUP, "the server shows no state of a replica"))?;
        let in_table = |repository: usize| state.get(repository).is_some_and(|value| value == "TABLE");
        if (in_table(0) || in_table(1)) && self.in_transaction() {
            let text = "this session is in a transaction or under LOCK TABLES, and the replica's repositories are tables";
            return Err(Error::new(libc::EBUSY, text));
        }
        let source = if in_table(0) { self.row(SOURCE)? } else { file(c"master_info_file", [3, 4, 6, 22])? };
        let done = if in_table(1) { self.row(DONE)? } else { file(c"relay_log_info_file", [1, 3, 4])? };
        let (Some(source), Some(done)) = (source, done) else { return Ok(Vec::new()) };
        let text = |row: &[String], at: usize| row.get(at).cloned().unwrap_or_default();
        if text(&source, 0).is_empty() {
            return Ok(Vec::new());
        }
        Ok(vec![Channel {
            name: String::new(),
            host: text(&source, 0),
            user: text(&source, 1),
            port: text(&source, 2),
            by_gtid: text(&source, 3) == "1",
            relay_log: base_name(&text(&done, 0)),
            source_log: text(&done, 1),
            position: text(&done, 2),
            gtid: text(&state, 2).replace('\n', ""),
            runs: text(&state, 3) == "1",
        }])
    }
}

/// Lines of a repository that is a file, named by a `char *` of the server; `None` when there is none. The first
/// line tells how many there are.
fn file<const N: usize>(name: &CStr, lines: [usize; N]) -> Result<Option<Vec<String>>> {
    let (Some(files), Some(name)) = (ServerFiles::of_this_server(), text_variable(name)) else {
        return Ok(None);
    };
    let path = files.data_dir.join(OsStr::from_bytes(&name));
    match std::fs::read(&path) {
        Ok(content) => {
            let all: Vec<_> = content.split(|&b| b == b'\n').collect();
            let line = |at: &usize| {
                all.get(*at).map_or_else(String::new, |line| String::from_utf8_lossy(line).into_owned())
            };
            Ok(Some(lines.iter().map(line).collect()))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", &path, &e)),
    }
}

fn base_name(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// The rows of the first result of an `Ed_connection`; `None` when it has none. The session's address in the object
/// tells where its results begin.
///
/// # Safety
/// `object` is an `Ed_connection` of `thd` after a statement that succeeded.
unsafe fn rows(object: &[u8], thd: Thd) -> Option<Vec<Vec<String>>> {
    let word = |bytes: &[u8]| Some(usize::from_ne_bytes(bytes.try_into().ok()?));
    let mut words = object.chunks_exact(8).filter_map(word);
    words.find(|word| *word == thd.0 as usize)?;
    let result = words.next()? as *const EdResultSet;
    if result.is_null() {
        return None;
    }
    // SAFETY: a result set, its list and its rows live until the connection frees them; layouts by `abi`.
    unsafe {
        let list = &*(*result).rows;
        let mut node = list.first;
        let mut rows = Vec::new();
        for _ in 0..list.elements {
            let row = &*(*node).row;
            let columns = std::slice::from_raw_parts(row.columns, row.count);
            rows.push(columns.iter().map(|value| text(value)).collect());
            node = (*node).next;
        }
        Some(rows)
    }
}

/// A string; numbers would come as their bytes.
///
/// # Safety
/// It is one of a row that is alive.
unsafe fn text(value: &LexString) -> String {
    if value.str.is_null() {
        return String::new();
    }
    // SAFETY: by the caller's promise; it is as long as said.
    let bytes = unsafe { std::slice::from_raw_parts(value.str.cast::<u8>(), value.length) };
    String::from_utf8_lossy(bytes).into_owned()
}
