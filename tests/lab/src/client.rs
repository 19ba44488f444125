//! The SQL client: a safe face of libmariadb (or libmysqlclient), one connection a value.
//!
//! A [`Conn`] may move to another thread but is used by one at a time, which is what the library asks for.

use mysqlclient_sys as sys;
use std::ffi::{CStr, CString, c_char, c_uint, c_ulong};
use std::fmt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::OnceLock;
use std::time::Duration;

/// How to connect: a user and password over a Unix socket.
#[derive(Clone, Debug)]
pub struct ConnOptions {
    /// The server's socket.
    pub socket: PathBuf,
    /// The account's name.
    pub user: String,
    /// The account's password; empty for none.
    pub password: String,
    /// The default database, if any.
    pub database: Option<String>,
    /// Longest wait for the server's greeting; whole seconds, at least one.
    pub connect_timeout: Duration,
    /// Longest wait for the answer to a statement (whole seconds); `None` waits for ever.
    pub read_timeout: Option<Duration>,
}

impl ConnOptions {
    /// root without password, no database, 10 s to connect, no limit for a statement.
    pub fn root(socket: impl Into<PathBuf>) -> Self {
        ConnOptions {
            socket: socket.into(),
            user: "root".into(),
            password: String::new(),
            database: None,
            connect_timeout: Duration::from_secs(10),
            read_timeout: None,
        }
    }
}

/// An error of the server (codes below 2000, and from 3000) or of the client library (2000 to 2999, 5000 and more).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlError {
    /// The error's number.
    pub code: u32,
    /// The five characters of the SQL state.
    pub state: String,
    /// The error's text.
    pub message: String,
    /// What was asked, shortened.
    pub statement: String,
}

impl SqlError {
    /// The connection is gone (or was never there): the outcome of the statement is unknown.
    pub fn is_disconnect(&self) -> bool {
        // CR_CONNECTION_ERROR, CR_CONN_HOST_ERROR, CR_SERVER_GONE_ERROR, CR_SERVER_HANDSHAKE_ERR, CR_SERVER_LOST,
        // CR_SERVER_LOST_EXTENDED (errmsg.h); ER_SERVER_SHUTDOWN, ER_CONNECTION_KILLED (mysqld_error.h).
        matches!(self.code, 2002 | 2003 | 2006 | 2012 | 2013 | 2055 | 1053 | 1927)
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {} ({}): {}, in: {}", self.code, self.state, self.message, self.statement)
    }
}

impl std::error::Error for SqlError {}

/// One row: a value a column, `None` for NULL.
pub type Row = Vec<Option<Vec<u8>>>;

/// What a statement returned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The names of the columns; none where the statement returns no rows.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Row>,
    /// Rows changed, for a statement that returns none.
    pub affected: u64,
    /// Warnings and notes that `SHOW WARNINGS` would list.
    pub warnings: u32,
}

impl Answer {
    /// The rows as text (invalid UTF-8 replaced), NULL as `NULL`.
    pub fn texts(&self) -> Vec<Vec<String>> {
        self.rows.iter().map(|row| row.iter().map(|value| text(value.as_deref())).collect()).collect()
    }

    /// The first value of the first row, if there is a row and the value is not NULL.
    pub fn first(&self) -> Option<String> {
        self.rows.first()?.first()?.as_deref().map(|value| text(Some(value)))
    }
}

fn text(value: Option<&[u8]>) -> String {
    value.map_or_else(|| "NULL".into(), |bytes| String::from_utf8_lossy(bytes).into_owned())
}

/// A connection.
#[derive(Debug)]
pub struct Conn {
    raw: *mut sys::MYSQL,
}

// SAFETY: a MYSQL handle has no tie to the thread that made it; the library asks only that one thread at a time uses
// it, and every method takes `&mut self`.
unsafe impl Send for Conn {}

impl Conn {
    /// Connects.
    ///
    /// # Errors
    /// What the library says: no server at the socket, access denied, time out.
    pub fn connect(options: &ConnOptions) -> Result<Conn, SqlError> {
        enter_thread();
        let what = || format!("connect to {}", options.socket.display());
        // SAFETY: a null argument asks for a new handle, which the `Conn` closes.
        let raw = unsafe { sys::mysql_init(ptr::null_mut()) };
        if raw.is_null() {
            return Err(refused("the client library is out of memory", &what()));
        }
        let conn = Conn { raw };
        let (socket, user) = (c_path(&options.socket, &what)?, c_text(&options.user, &what)?);
        let password = c_text(&options.password, &what)?;
        let database = options.database.as_deref().map(|name| c_text(name, &what)).transpose()?;
        let connect = seconds(options.connect_timeout);
        let read = options.read_timeout.map_or(0, seconds);
        // SAFETY: the handle is ours; the first two options take an unsigned int (0: no limit), the third a C string,
        // and the library copies them.
        unsafe {
            use sys::mysql_option::*;
            sys::mysql_options(raw, MYSQL_OPT_CONNECT_TIMEOUT, ptr::from_ref(&connect).cast());
            sys::mysql_options(raw, MYSQL_OPT_READ_TIMEOUT, ptr::from_ref(&read).cast());
            sys::mysql_options(raw, MYSQL_SET_CHARSET_NAME, c"utf8mb4".as_ptr().cast());
        }
        // SAFETY: every pointer is a C string that outlives the call, or null where that means "none".
        let connected = unsafe {
            sys::mysql_real_connect(
                raw,
                c"localhost".as_ptr(),
                user.as_ptr(),
                password.as_ptr(),
                database.as_ref().map_or(ptr::null(), |name| name.as_ptr()),
                0,
                socket.as_ptr(),
                0,
            )
        };
        if connected.is_null() {
            return Err(conn.error(what().as_bytes()));
        }
        // A server that is started meanwhile must not inherit the connection and keep it open.
        // SAFETY: the handle is connected, so `fd` is its socket; fcntl(2) changes but a flag of it.
        unsafe { libc::fcntl((*raw).net.fd as libc::c_int, libc::F_SETFD, libc::FD_CLOEXEC) };
        Ok(conn)
    }

    /// Runs a statement and returns its first result; further ones (of a CALL) are read and dropped.
    ///
    /// # Errors
    /// The server's error, or the library's when the connection breaks.
    pub fn query(&mut self, sql: impl AsRef<[u8]>) -> Result<Answer, SqlError> {
        enter_thread();
        let sql = sql.as_ref();
        // SAFETY: the handle is connected; pointer and length describe `sql`.
        if unsafe { sys::mysql_real_query(self.raw, sql.as_ptr().cast(), sql.len() as c_ulong) } != 0 {
            return Err(self.error(sql));
        }
        let answer = self.read_result(sql)?;
        loop {
            // SAFETY: the result before was read whole.
            match unsafe { sys::mysql_next_result(self.raw) } {
                0 => drop(self.read_result(sql)?),
                -1 => return Ok(answer),
                _ => return Err(self.error(sql)),
            }
        }
    }

    /// Runs a statement for its effect and returns how many rows it changed.
    ///
    /// # Errors
    /// As [`Conn::query`].
    pub fn exec(&mut self, sql: impl AsRef<[u8]>) -> Result<u64, SqlError> {
        Ok(self.query(sql)?.affected)
    }

    /// The first value of the first row as text; `None` for no row and for NULL.
    ///
    /// # Errors
    /// As [`Conn::query`].
    pub fn value(&mut self, sql: impl AsRef<[u8]>) -> Result<Option<String>, SqlError> {
        Ok(self.query(sql)?.first())
    }

    /// The connection's number, for KILL and the processlist.
    pub fn id(&self) -> u64 {
        // SAFETY: the handle is connected.
        unsafe { sys::mysql_thread_id(self.raw) }
    }

    /// Reads the result that the server has just announced.
    fn read_result(&mut self, sql: &[u8]) -> Result<Answer, SqlError> {
        // SAFETY: a statement was sent and its result not yet read.
        let result = unsafe { sys::mysql_store_result(self.raw) };
        if result.is_null() {
            // SAFETY: the handle is connected.
            if unsafe { sys::mysql_field_count(self.raw) } != 0 {
                return Err(self.error(sql));
            }
            // SAFETY: the handle is connected.
            let (affected, warnings) =
                unsafe { (sys::mysql_affected_rows(self.raw), sys::mysql_warning_count(self.raw)) };
            return Ok(Answer { affected, warnings, ..Answer::default() });
        }
        let result = Stored(result);
        // SAFETY: the handle is connected.
        let warnings = unsafe { sys::mysql_warning_count(self.raw) };
        Ok(Answer { columns: result.columns(), rows: result.rows(), affected: 0, warnings })
    }

    fn error(&self, sql: &[u8]) -> SqlError {
        // SAFETY: the three return a number and two C strings that live in the handle until its next call.
        unsafe {
            SqlError {
                code: sys::mysql_errno(self.raw),
                state: c_string(sys::mysql_sqlstate(self.raw)),
                message: c_string(sys::mysql_error(self.raw)),
                statement: shortened(sql),
            }
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        enter_thread();
        // SAFETY: the handle came from mysql_init and is closed once.
        unsafe { sys::mysql_close(self.raw) };
    }
}

/// A time as the library wants it: whole seconds, where 0 would mean no limit.
fn seconds(time: Duration) -> c_uint {
    c_uint::try_from(time.as_secs().max(1)).unwrap_or(c_uint::MAX)
}

/// A result that the library holds in memory.
struct Stored(*mut sys::MYSQL_RES);

impl Stored {
    fn width(&self) -> usize {
        // SAFETY: the result is alive.
        unsafe { sys::mysql_num_fields(self.0) as usize }
    }

    fn columns(&self) -> Vec<String> {
        // SAFETY: the library returns an array of as many fields as the result is wide, each with a C string as name.
        unsafe {
            let fields = sys::mysql_fetch_fields(self.0);
            (0..self.width()).map(|i| c_string((*fields.add(i)).name)).collect()
        }
    }

    fn rows(&self) -> Vec<Row> {
        let width = self.width();
        let mut rows = Vec::new();
        loop {
            // SAFETY: the result is alive; a stored result ends with a null row.
            let row = unsafe { sys::mysql_fetch_row(self.0) };
            if row.is_null() {
                return rows;
            }
            // SAFETY: row and lengths are arrays of `width`, valid until the next row; a value that is not NULL
            // has as many bytes as its length says.
            rows.push(unsafe {
                let lengths = sys::mysql_fetch_lengths(self.0);
                (0..width)
                    .map(|i| {
                        let value = *row.add(i);
                        (!value.is_null()).then(|| {
                            std::slice::from_raw_parts(value.cast::<u8>(), *lengths.add(i) as usize).to_vec()
                        })
                    })
                    .collect()
            });
        }
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        // SAFETY: the result came from mysql_store_result and is freed once.
        unsafe { sys::mysql_free_result(self.0) };
    }
}

/// Tells the library of this thread before its first use; the library forgets the thread when it ends.
fn enter_thread() {
    struct Thread;
    impl Drop for Thread {
        fn drop(&mut self) {
            // SAFETY: the thread entered by mysql_thread_init and uses the library no more.
            unsafe { sys::mysql_thread_end() };
        }
    }
    thread_local! {
        static THREAD: Thread = {
            static LIBRARY: OnceLock<()> = OnceLock::new();
            LIBRARY.get_or_init(|| {
                // SAFETY: once, before any other use; no arguments.
                let status = unsafe { sys::mysql_server_init(0, ptr::null_mut(), ptr::null_mut()) };
                assert_eq!(status, 0, "the client library cannot start");
            });
            // SAFETY: the library is initialised.
            unsafe { sys::mysql_thread_init() };
            Thread
        };
    }
    // A connection that is dropped while the thread's own values are being destroyed needs nothing more.
    let _ = THREAD.try_with(|_| ());
}

/// # Safety
/// `text` is null or a C string.
unsafe fn c_string(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by the caller's word.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn c_text(text: &str, what: &dyn Fn() -> String) -> Result<CString, SqlError> {
    CString::new(text).map_err(|_| refused("a zero byte in an argument", &what()))
}

fn c_path(path: &Path, what: &dyn Fn() -> String) -> Result<CString, SqlError> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes()).map_err(|_| refused("a zero byte in an argument", &what()))
}

/// An error of our own, under the number that the library has for the unknown ones (CR_UNKNOWN_ERROR).
fn refused(message: &str, statement: &str) -> SqlError {
    SqlError { code: 2000, state: "HY000".into(), message: message.into(), statement: statement.into() }
}

fn shortened(sql: &[u8]) -> String {
    const MOST: usize = 200;
    let text = String::from_utf8_lossy(sql);
    if text.chars().count() <= MOST {
        text.into_owned()
    } else {
        text.chars().take(MOST).chain(['…']).collect()
    }
}
