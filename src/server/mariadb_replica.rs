//! SQL that returns rows, on MariaDB: in the session of [`super::mariadb_sql`].

use std::ffi::CStr;

use super::mariadb_sql::Session;
use super::replica::{Channel, Dialect, Sql, Table, show};
use crate::engine::error::{Error, Result};

/// Columns that are read of a row, at most. The service does not tell how many there are: statements must have them.
fn width(sql: &CStr) -> usize {
    if sql.to_bytes().starts_with(b"SHOW ALL SLAVES STATUS") { 24 } else { 1 }
}

/// A session on this thread.
pub fn open() -> Result<Box<dyn Sql>> {
    Ok(Box::new(Session::open()?))
}

impl Sql for Session {
    fn channels(&self, dialect: Dialect) -> Result<Vec<Channel>> {
        show(self, dialect)
    }

    fn run(&self, sql: &CStr) -> Result<Table> {
        // SAFETY: the connection is open; the statement is as long as said.
        let failed = unsafe {
            (self.service.real_query)(self.connection, sql.as_ptr(), sql.count_bytes() as u64) != 0
        };
        if failed {
            // SAFETY: as above; the text is the connection's own until its next statement.
            let (code, text) = unsafe {
                ((self.service.errno)(self.connection), CStr::from_ptr((self.service.error)(self.connection)))
            };
            let (sql, text) = (sql.to_string_lossy(), text.to_string_lossy());
            return Err(Error::new(libc::EIO, format!("{sql}: {text} ({code})")));
        }
        let mut table = Table::default();
        let width = width(sql);
        // SAFETY: a statement has just succeeded on the open connection. A row has at least `width` columns, each a
        // NUL-terminated string or null; the result is freed once, after the last use.
        unsafe {
            let result = (self.service.store_result)(self.connection);
            if result.0.is_null() {
                return Ok(table);
            }
            loop {
                let row = (self.service.fetch_row)(result);
                if row.is_null() {
                    break;
                }
                let text = |at: usize| match *row.add(at) {
                    value if value.is_null() => String::new(),
                    value => CStr::from_ptr(value).to_string_lossy().into_owned(),
                };
                table.rows.push((0..width).map(text).collect());
            }
            (self.service.free_result)(result);
        }
        Ok(table)
    }
}
