//! Where a binary log ends: the position behind its last complete transaction, and which GTIDs it and the logs before
//! it hold.
//!
//! A server that recovers from a crash keeps exactly the transactions that are complete in its newest binary log,
//! and cuts off or ignores what follows them (`MYSQL_BIN_LOG::recover` of MySQL, `TC_LOG_BINLOG::recover` of
//! MariaDB). So the end of the newest log of an image is the position of the image. Read are the headers of the
//! events and little more; the file is not trusted.
//!
//! Format 4, as MySQL 5.6 to 9.7 and MariaDB 10.5 to 11.8 write it: magic, format description event, previous GTIDs,
//! groups of events. Numbers are little-endian.

#[cfg(test)]
pub(crate) mod fuzz;
mod gtid;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

pub use gtid::Gtids;
use gtid::{Gtid, Reader};

/// First bytes of a binary log.
const MAGIC: [u8; 4] = *b"\xfebin";
/// First bytes of one that MySQL has encrypted (binlog_encryption), and how much of it is no binary log.
const MAGIC_ENCRYPTED: [u8; 4] = *b"\xfdbin";
const ENCRYPTION_HEADER: u64 = 512;
/// Time (4 bytes), type (1), server (4), size of the event with its header (4), end position (4), flags (2).
const HEADER: u32 = 19;
/// The longest event that is read whole: a list of GTIDs.
const LONGEST: u32 = 64 << 20;
/// How much of a query is read: the words that begin and end transactions are shorter.
const QUERY: u32 = 16;

/// Types of events (log_event.h of both).
mod kind {
    pub const QUERY: u8 = 2;
    pub const STOP: u8 = 3;
    pub const ROTATE: u8 = 4;
    pub const FORMAT_DESCRIPTION: u8 = 15;
    pub const XID: u8 = 16;
    pub const EXECUTE_LOAD_QUERY: u8 = 18;
    pub const INCIDENT: u8 = 26;
    pub const HEARTBEAT: u8 = 27;
    pub const GTID: u8 = 33;
    pub const ANONYMOUS_GTID: u8 = 34;
    pub const PREVIOUS_GTIDS: u8 = 35;
    pub const XA_PREPARE: u8 = 38;
    pub const TRANSACTION_PAYLOAD: u8 = 40;
    pub const HEARTBEAT_V2: u8 = 41;
    pub const GTID_TAGGED: u8 = 42;
    pub const MARIADB_BINLOG_CHECKPOINT: u8 = 161;
    pub const MARIADB_GTID: u8 = 162;
    pub const MARIADB_GTID_LIST: u8 = 163;
    pub const MARIADB_START_ENCRYPTION: u8 = 164;
    pub const MARIADB_QUERY_COMPRESSED: u8 = 165;
}

/// What a log says of its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Bytes to the end of the last complete transaction, or of the head of a log without any. Of an encrypted log:
    /// to the end of the file, as the server counts them.
    pub position: u64,
    /// The GTIDs of this log and all before it; `None` when it is encrypted.
    pub gtids: Option<Gtids>,
}

/// Why a log cannot be read.
#[derive(Debug)]
pub enum Failure {
    /// The file cannot be read.
    Io(io::Error),
    /// It is no binary log of a known format: what is wrong, and where, in bytes.
    Format(&'static str, u64),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

/// Reads the end of a binary log.
pub fn end(file: &File) -> Result<End, Failure> {
    let mut log = Log { file, size: file.metadata()?.len(), window: Vec::new(), start: 0 };
    let magic = log.bytes(0, 4)?.ok_or(Failure::Format("the log has not even a beginning", 0))?.to_vec();
    if magic == MAGIC_ENCRYPTED && log.size >= ENCRYPTION_HEADER {
        return Ok(End { position: log.size - ENCRYPTION_HEADER, gtids: None });
    }
    if magic != MAGIC {
        return Err(Failure::Format("this is no binary log", 0));
    }
    let mut walk = Walk { position: 0, gtids: Gtids::default(), group: None };
    let mut at = MAGIC.len() as u64;
    let mut checksum = 0;
    while let Some(event) = log.event(at)? {
        if at == MAGIC.len() as u64 {
            checksum = log.format(&event)?;
        } else if event.kind == kind::MARIADB_START_ENCRYPTION {
            return Ok(End { position: log.size, gtids: None });
        }
        let body = event.size.saturating_sub(HEADER + checksum);
        walk.step(&mut log, &Event { body, ..event })?;
        at = event.end();
    }
    if walk.position == 0 {
        return Err(Failure::Format("the log has no format description", 4));
    }
    Ok(End { position: walk.position, gtids: Some(walk.gtids) })
}

/// A log, read through a window that moves forward.
struct Log<'a> {
    file: &'a File,
    size: u64,
    window: Vec<u8>,
    start: u64,
}

/// An event that is whole.
struct Event {
    kind: u8,
    server: u32,
    at: u64,
    size: u32,
    /// Without header and checksum.
    body: u32,
}

impl Event {
    fn end(&self) -> u64 {
        self.at + u64::from(self.size)
    }
}

impl Log<'_> {
    /// Bytes of the file; `None` when it ends before.
    fn bytes(&mut self, at: u64, count: u32) -> io::Result<Option<&[u8]>> {
        const WINDOW: u64 = 64 << 10;
        let count = u64::from(count);
        if at.checked_add(count).is_none_or(|end| end > self.size) {
            return Ok(None);
        }
        if at < self.start || at + count > self.start + self.window.len() as u64 {
            let length = count.max(WINDOW).min(self.size - at);
            self.window.resize(usize::try_from(length).map_err(io::Error::other)?, 0);
            self.start = at;
            self.file.read_exact_at(&mut self.window, at)?;
        }
        let from = usize::try_from(at - self.start).map_err(io::Error::other)?;
        Ok(self.window.get(from..).and_then(|rest| rest.get(..count as usize)))
    }

    /// The event at a place; `None` when the file ends before the event does.
    fn event(&mut self, at: u64) -> Result<Option<Event>, Failure> {
        let log_size = self.size;
        let Some(header) = self.bytes(at, HEADER)? else { return Ok(None) };
        let mut header = Reader::new(header.get(4..).unwrap_or(&[]));
        let whole = (|| Some((header.u8()?, header.u32()?, header.u32()?)))();
        let Some((kind, server, size)) = whole else { return Ok(None) };
        if size < HEADER {
            return Err(Failure::Format("an event is shorter than its header", at));
        }
        let event = Event { kind, server, at, size, body: size - HEADER };
        Ok((event.end() <= log_size).then_some(event))
    }

    /// The beginning of an event's body, at most `most` bytes.
    fn body(&mut self, event: &Event, most: u32) -> Result<&[u8], Failure> {
        let body = self.bytes(event.at + u64::from(HEADER), event.body.min(most))?;
        Ok(body.unwrap_or(&[]))
    }

    /// Reads the format description; the bytes of a checksum behind each event.
    fn format(&mut self, event: &Event) -> Result<u32, Failure> {
        let wrong = |what| Err(Failure::Format(what, event.at));
        if event.kind != kind::FORMAT_DESCRIPTION {
            return wrong("the log does not begin with a format description");
        }
        // Version (2 bytes), the server's version (50), time (4), length of a header (1), lengths of the types' own
        // headers (1 each), algorithm of checksums (1), checksum (4).
        let body = self.body(event, 1024)?;
        let Some((head, [algorithm, _, _, _, _])) = body.split_last_chunk::<5>() else {
            return wrong("the format description is too short");
        };
        let is_known = head.starts_with(&[4, 0])
            && head.get(56).is_some_and(|&length| u32::from(length) == HEADER)
            && head.get(57 + usize::from(kind::QUERY) - 1) == Some(&13);
        match (is_known, algorithm) {
            (true, 0) => Ok(0),
            (true, 1) => Ok(4),
            (true, _) => wrong("the algorithm of the log's checksums is unknown"),
            (false, _) => wrong("the log is not of format 4"),
        }
    }

    /// What a query event asks for, as far as it matters here.
    fn query(&mut self, event: &Event) -> Result<Query, Failure> {
        // Thread (4 bytes), time (4), length of the database's name (1), error (2), length of the status (2), status,
        // name and a NUL, text.
        let mut body = Reader::new(self.body(event, 13)?);
        let lengths = (|| {
            body.skip(8)?;
            let name = body.u8()?;
            body.skip(2)?;
            Some((name, body.u16()?))
        })();
        let Some((name, status)) = lengths else {
            return Err(Failure::Format("a query event is too short", event.at));
        };
        let before = 13 + u32::from(status) + u32::from(name) + 1;
        let Some(length) = event.body.checked_sub(before) else {
            return Err(Failure::Format("a query event is too short", event.at));
        };
        let text = self.bytes(event.at + u64::from(HEADER + before), length.min(QUERY))?.unwrap_or(&[]);
        Ok(match () {
            () if text.eq_ignore_ascii_case(b"BEGIN") => Query::Begin,
            () if text.get(..9).is_some_and(|text| text.eq_ignore_ascii_case(b"XA START ")) => Query::Begin,
            () if text.eq_ignore_ascii_case(b"COMMIT") || text.eq_ignore_ascii_case(b"ROLLBACK") => {
                Query::End
            }
            () => Query::Other,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Query {
    Begin,
    End,
    Other,
}

/// A transaction that has begun.
struct Group {
    gtid: Option<Gtid>,
    /// It goes on until it is committed; otherwise it ends with its statement.
    explicit: bool,
}

/// The state between two events.
struct Walk {
    position: u64,
    gtids: Gtids,
    group: Option<Group>,
}

impl Walk {
    fn step(&mut self, log: &mut Log, event: &Event) -> Result<(), Failure> {
        let damaged = || Failure::Format("an event of GTIDs is damaged", event.at);
        let too_long = || Failure::Format("an event of GTIDs is too long", event.at);
        match event.kind {
            kind::PREVIOUS_GTIDS | kind::MARIADB_GTID_LIST => {
                if event.body > LONGEST {
                    return Err(too_long());
                }
                let body = log.body(event, LONGEST)?;
                self.gtids = if event.kind == kind::PREVIOUS_GTIDS {
                    Gtids::previous(body).ok_or_else(damaged)?
                } else {
                    Gtids::list(body).ok_or_else(damaged)?
                };
                self.position = event.end();
            }
            kind::FORMAT_DESCRIPTION
            | kind::STOP
            | kind::ROTATE
            | kind::HEARTBEAT
            | kind::HEARTBEAT_V2
            | kind::MARIADB_BINLOG_CHECKPOINT => {
                if self.group.is_none() {
                    self.position = event.end();
                }
            }
            kind::GTID | kind::GTID_TAGGED | kind::ANONYMOUS_GTID | kind::MARIADB_GTID => {
                // Transactions are written one after the other: the one before is whole.
                self.complete(event.at);
                let mut explicit = false;
                let body = log.body(event, 1024)?;
                let gtid = match event.kind {
                    kind::GTID => Some(Gtid::plain(body).ok_or_else(damaged)?),
                    kind::GTID_TAGGED => Some(Gtid::tagged(body).ok_or_else(damaged)?),
                    kind::MARIADB_GTID => {
                        let (gtid, standalone) = Gtid::mariadb(body, event.server).ok_or_else(damaged)?;
                        explicit = !standalone;
                        Some(gtid)
                    }
                    _ => None,
                };
                self.group = Some(Group { gtid, explicit });
            }
            kind::QUERY => {
                let query = log.query(event)?;
                let group = self.begun();
                match query {
                    Query::Begin => group.explicit = true,
                    Query::Other if group.explicit => {}
                    Query::Other | Query::End => self.complete(event.end()),
                }
            }
            kind::MARIADB_QUERY_COMPRESSED | kind::EXECUTE_LOAD_QUERY => {
                if !self.begun().explicit {
                    self.complete(event.end());
                }
            }
            kind::XID | kind::XA_PREPARE | kind::TRANSACTION_PAYLOAD | kind::INCIDENT => {
                self.begun();
                self.complete(event.end());
            }
            // Rows, values of variables, blocks of files: parts of a transaction.
            _ => {
                self.begun();
            }
        }
        Ok(())
    }

    fn begun(&mut self) -> &mut Group {
        self.group.get_or_insert(Group { gtid: None, explicit: false })
    }

    /// The transaction that has begun, if any, ends there.
    fn complete(&mut self, position: u64) {
        if let Some(group) = self.group.take() {
            self.position = position;
            if let Some(gtid) = group.gtid {
                self.gtids.add(gtid);
            }
        }
    }
}
