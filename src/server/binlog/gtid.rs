//! Global transaction identifiers, as binary logs hold them and as SQL writes them.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// Numbers of a server are from 1 to this, exclusively (`GNO_END`, and the range of an unsigned number in MariaDB).
const END: u64 = i64::MAX as u64;

/// Server (a UUID's bytes) and tag (empty: none) of MySQL's GTIDs.
type Origin = ([u8; 16], Vec<u8>);

/// One GTID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gtid {
    /// `uuid:number` or `uuid:tag:number`.
    MySql(Origin, u64),
    /// `domain-server-number`.
    MariaDb(u32, u32, u64),
}

impl Gtid {
    /// Body of a Gtid_log_event: flags (1 byte), UUID (16), number (8).
    pub fn plain(body: &[u8]) -> Option<Gtid> {
        let mut body = Reader::new(body);
        body.skip(1)?;
        let uuid = body.array()?;
        Some(Gtid::MySql((uuid, Vec::new()), number(body.u64()?)?))
    }

    /// Body of a Gtid_tagged_log_event, in the format of MySQL's serialization library: version, size, last field
    /// that must be known, then fields, each behind its number: flags (0), UUID (1), number (2), tag (3), ...
    pub fn tagged(body: &[u8]) -> Option<Gtid> {
        let mut body = Reader::new(body);
        if body.varlen()? != 1 {
            return None;
        }
        body.varlen()?;
        body.varlen()?;
        body.field(0)?;
        body.varlen()?;
        body.field(1)?;
        let mut uuid = [0; 16];
        for byte in &mut uuid {
            *byte = u8::try_from(body.varlen()?).ok()?;
        }
        body.field(2)?;
        // A signed number: the lowest bit is its sign.
        let signed = body.varlen()?;
        if signed & 1 != 0 {
            return None;
        }
        body.field(3)?;
        Some(Gtid::MySql((uuid, body.tag()?), number(signed >> 1)?))
    }

    /// Body of MariaDB's Gtid_log_event: number (8 bytes), domain (4), flags (1); and whether it is a single statement.
    pub fn mariadb(body: &[u8], server: u32) -> Option<(Gtid, bool)> {
        const STANDALONE: u8 = 1;
        let mut body = Reader::new(body);
        let (number, domain) = (body.u64()?, body.u32()?);
        Some((Gtid::MariaDb(domain, server, number), body.u8()? & STANDALONE != 0))
    }
}

fn number(number: u64) -> Option<u64> {
    (1..END).contains(&number).then_some(number)
}

/// GTIDs of all transactions up to a position: of MySQL the set, of MariaDB the last of each domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gtids {
    /// Intervals by origin: beginnings, and ends that they do not include.
    sets: BTreeMap<Origin, BTreeMap<u64, u64>>,
    /// Server and number by domain.
    domains: BTreeMap<u32, (u32, u64)>,
}

impl Gtids {
    /// Body of a Previous_gtids_log_event: number of origins, and of each UUID, tag (in the newer form), number of
    /// intervals, beginning and end of each.
    pub fn previous(body: &[u8]) -> Option<Gtids> {
        let mut body = Reader::new(body);
        let head = body.u64()?;
        // The highest byte tells the form; the newer one repeats it in the lowest.
        let (has_tags, origins) = match head >> 56 {
            0 => (false, head),
            1 => (true, (head & ((1 << 56) - 1)) >> 8),
            _ => return None,
        };
        let mut gtids = Gtids::default();
        for _ in 0..origins {
            let uuid = body.array()?;
            let tag = if has_tags { body.tag()? } else { Vec::new() };
            for _ in 0..body.u64()? {
                let (start, end) = (number(body.u64()?)?, body.u64()?);
                if end <= start || end > END {
                    return None;
                }
                gtids.add_interval((uuid, tag.clone()), start, end);
            }
        }
        Some(gtids)
    }

    /// Body of a Gtid_list_log_event: count and flags (4 bytes, the flags in the highest 4 bits), then domain (4),
    /// server (4), number (8) of each; the last of a domain comes last.
    pub fn list(body: &[u8]) -> Option<Gtids> {
        let mut body = Reader::new(body);
        let mut gtids = Gtids::default();
        for _ in 0..body.u32()? & 0x0fff_ffff {
            gtids.add(Gtid::MariaDb(body.u32()?, body.u32()?, body.u64()?));
        }
        Some(gtids)
    }

    /// One more transaction.
    pub fn add(&mut self, gtid: Gtid) {
        match gtid {
            Gtid::MySql(origin, number) => self.add_interval(origin, number, number + 1),
            Gtid::MariaDb(domain, server, number) => {
                self.domains.insert(domain, (server, number));
            }
        }
    }

    fn add_interval(&mut self, origin: Origin, mut start: u64, mut end: u64) {
        let set = self.sets.entry(origin).or_default();
        if let Some((&before, &before_end)) = set.range(..=start).next_back()
            && before_end >= start
        {
            (start, end) = (before, end.max(before_end));
        }
        while let Some((&next, &next_end)) = set.range(start + 1..=end).next() {
            end = end.max(next_end);
            set.remove(&next);
        }
        set.insert(start, end);
    }
}

/// As SQL takes it: `uuid:1-5:7:tag:1,uuid:1` or `0-1-100,1-2-3`; nothing when there is none.
impl fmt::Display for Gtids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last: Option<[u8; 16]> = None;
        for ((uuid, tag), set) in &self.sets {
            if last != Some(*uuid) {
                f.write_str(if last.is_none() { "" } else { "," })?;
                for (i, byte) in uuid.iter().enumerate() {
                    f.write_str(if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" })?;
                    write!(f, "{byte:02x}")?;
                }
                last = Some(*uuid);
            }
            if !tag.is_empty() {
                write!(f, ":{}", String::from_utf8_lossy(tag))?;
            }
            for (start, end) in set {
                write!(f, ":{start}")?;
                if end - start > 1 {
                    write!(f, "-{}", end - 1)?;
                }
            }
        }
        for (i, (domain, (server, number))) in self.domains.iter().enumerate() {
            if i > 0 || last.is_some() {
                f.write_char(',')?;
            }
            write!(f, "{domain}-{server}-{number}")?;
        }
        Ok(())
    }
}

/// Numbers from bytes that may end at any place: `None` then.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// From the first byte on.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// Leaves bytes out.
    pub fn skip(&mut self, count: usize) -> Option<()> {
        self.take(count).map(drop)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number of the serialization library: as many bytes follow the first as it has ones at its low end, and the
    /// value stands above these and a zero.
    fn varlen(&mut self) -> Option<u64> {
        let first = self.u8()?;
        let more = first.trailing_ones();
        let mut bytes = [0; 16];
        *bytes.first_mut()? = first;
        let rest = self.take(more as usize)?;
        bytes.get_mut(1..=rest.len())?.copy_from_slice(rest);
        // Eight more are the value itself.
        let shift = if more == 8 { 8 } else { more + 1 };
        u64::try_from(u128::from_le_bytes(bytes) >> shift).ok()
    }

    /// The number of the next field.
    fn field(&mut self, expected: u64) -> Option<()> {
        (self.varlen()? == expected).then_some(())
    }

    /// A tag: its length, at most 32, and letters, digits and underscores.
    fn tag(&mut self) -> Option<Vec<u8>> {
        let length = usize::try_from(self.varlen()?).ok().filter(|&length| length <= 32)?;
        let tag = self.take(length)?;
        tag.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_').then(|| tag.to_vec())
    }
}
