//! Which transactions the binary logs of a data directory hold, read from the files themselves: the format of events
//! is the same in every server, however they log (statements or rows), and no tool of a server is needed.

use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The first bytes of a binary log.
const MAGIC: [u8; 4] = [0xfe, b'b', b'i', b'n'];
/// An event's header: time (4 bytes), type (1), server (4), size of the event with its header (4), end position (4),
/// flags (2).
const HEADER: usize = 19;
/// The type of the event that ends a transaction of InnoDB.
const XID_EVENT: u8 = 16;

/// The sequence numbers by client of this round's transactions that ended (their XID event is whole), as
/// [`crate::workload::tag`] marks them, in every file `BASE.NNNNNN` of the directory.
///
/// # Errors
/// When there is no such file, one cannot be read, or is no binary log.
pub fn transactions(dir: &Path, base: &str, round: u64) -> Result<BTreeMap<u32, Vec<u64>>> {
    let mut found: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    let files = files(dir, base)?;
    if files.is_empty() {
        bail!("{} has no binary log {base}.*", dir.display());
    }
    for file in files {
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        for (client, seq) in ended(&bytes, round).with_context(|| file.display().to_string())? {
            found.entry(client).or_default().push(seq);
        }
    }
    Ok(found)
}

/// The binary logs, oldest first.
fn files(dir: &Path, base: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_prefix(base)?.strip_prefix('.'));
        if number.is_some_and(|number| number.len() >= 6 && number.bytes().all(|b| b.is_ascii_digit())) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The transactions of one file, in their order. A torn event at its end ends the file, as it does for the server.
fn ended(bytes: &[u8], round: u64) -> Result<Vec<(u32, u64)>> {
    if !bytes.starts_with(&MAGIC) {
        // A file that was just created.
        if MAGIC.starts_with(bytes) {
            return Ok(Vec::new());
        }
        bail!("this is no binary log");
    }
    let prefix = format!("<j:{round}:");
    let (mut ended, mut open) = (Vec::new(), BTreeSet::new());
    let mut rest = &bytes[MAGIC.len()..];
    while rest.len() >= HEADER {
        let size = u32::from_le_bytes([rest[9], rest[10], rest[11], rest[12]]) as usize;
        if size < HEADER || size > rest.len() {
            break;
        }
        let (event, after) = rest.split_at(size);
        open.extend(tags(event, prefix.as_bytes()));
        if event[4] == XID_EVENT {
            ended.extend(std::mem::take(&mut open));
        }
        rest = after;
    }
    Ok(ended)
}

/// Every `<j:ROUND:CLIENT:SEQ>` in an event.
fn tags(event: &[u8], prefix: &[u8]) -> Vec<(u32, u64)> {
    let starts = event.windows(prefix.len()).enumerate().filter(|(_, window)| *window == prefix);
    starts
        .filter_map(|(at, _)| {
            let text = &event[at + prefix.len()..];
            let end = text.iter().position(|b| *b == b'>')?;
            let (client, seq) = std::str::from_utf8(&text[..end]).ok()?.split_once(':')?;
            Some((client.parse().ok()?, seq.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::tag;

    fn event(kind: u8, body: &str) -> Vec<u8> {
        let mut event = vec![0; HEADER];
        event[4] = kind;
        event[9..13].copy_from_slice(&((HEADER + body.len()) as u32).to_le_bytes());
        event.extend(body.as_bytes());
        event
    }

    #[test]
    fn only_what_ended_counts() {
        let (one, two, other) = (tag(7, 1, 1), tag(7, 2, 1), tag(70, 1, 9));
        let row = |tag: &str| event(30, &format!("..{tag}.."));
        let mut log = MAGIC.to_vec();
        for event in
            [row(&one), row(&one), event(XID_EVENT, "x"), row(&other), event(XID_EVENT, "x"), row(&two)]
        {
            log.extend(event);
        }
        let torn = event(XID_EVENT, "long enough");
        assert_eq!(ended(&log, 7).unwrap(), [(1, 1)]);
        assert_eq!(ended(&log, 70).unwrap(), [(1, 9)]);
        let whole = [log.clone(), torn.clone()].concat();
        assert_eq!(ended(&whole, 7).unwrap(), [(1, 1), (2, 1)]);
        assert_eq!(ended(&[&log[..], &torn[..torn.len() - 1]].concat(), 7).unwrap(), [(1, 1)]);
        assert!(ended(b"other", 7).is_err());
        assert!(ended(&MAGIC[..2], 7).unwrap().is_empty());
    }
}
