//! Logs of any transactions, and of any bytes.

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::{Arbitrary, Result, Unstructured};

use super::*;
use crate::fuzz;

/// Bytes of the servers that have transactions here.
const ORIGINS: [u8; 2] = [0x11, 0xab];

fn event(kind: u8, server: u32, body: &[u8], checksum: bool) -> Vec<u8> {
    let tail: &[u8] = if checksum { &[0xcc; 4] } else { &[] };
    let size = HEADER + (body.len() + tail.len()) as u32;
    [&[0; 4][..], &[kind], &server.to_le_bytes(), &size.to_le_bytes(), &[0; 6], body, tail].concat()
}

fn format(checksum: bool) -> Vec<u8> {
    let body =
        [&[4, 0][..], &[b'9'; 50], &[0; 4], &[HEADER as u8, 0, 13], &[0; 40], &[checksum.into(), 0, 0, 0, 0]];
    event(kind::FORMAT_DESCRIPTION, 1, &body.concat(), false)
}

fn query(text: &str) -> Vec<u8> {
    [&[0; 8][..], &[1, 0, 0, 2, 0, 0xaa, 0xbb, b'd', 0], text.as_bytes()].concat()
}

/// What the log should say, kept as plainly as can be.
#[derive(Clone, Default)]
struct Expected {
    sets: BTreeMap<u8, BTreeSet<u64>>,
    domains: BTreeMap<u32, (u32, u64)>,
}

impl Expected {
    fn shown(&self) -> String {
        let mut parts = Vec::new();
        for (origin, numbers) in self.sets.iter().filter(|(_, numbers)| !numbers.is_empty()) {
            let digits = format!("{origin:02x}").repeat(16);
            let uuid =
                [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-");
            let mut part = uuid;
            for first in numbers.iter().filter(|&number| !numbers.contains(&(number - 1))) {
                let last = (*first..).take_while(|number| numbers.contains(number)).last().unwrap_or(*first);
                part += &if last == *first { format!(":{first}") } else { format!(":{first}-{last}") };
            }
            parts.push(part);
        }
        parts.extend(
            self.domains.iter().map(|(domain, (server, number))| format!("{domain}-{server}-{number}")),
        );
        parts.join(",")
    }

    /// Previous_gtids_log_event, the intervals cut and shuffled.
    fn previous(&self, u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
        let mut body = (self.sets.len() as u64).to_le_bytes().to_vec();
        for (origin, numbers) in &self.sets {
            let mut intervals: Vec<(u64, u64)> = numbers.iter().map(|&number| (number, number + 1)).collect();
            let mut at = 1;
            while at < intervals.len() {
                if intervals[at - 1].1 == intervals[at].0 && u.arbitrary()? {
                    intervals[at - 1].1 = intervals.remove(at).1;
                } else {
                    at += 1;
                }
            }
            for at in 1..intervals.len() {
                intervals.swap(at, u.choose_index(at + 1)?);
            }
            body.extend([*origin; 16]);
            body.extend((intervals.len() as u64).to_le_bytes());
            for (start, end) in intervals {
                body.extend(start.to_le_bytes());
                body.extend(end.to_le_bytes());
            }
        }
        Ok(body)
    }
}

/// A log, and where its complete transactions end, with the GTIDs up to there.
struct Sample {
    log: Vec<u8>,
    ends: Vec<(usize, String)>,
}

fn sample(u: &mut Unstructured<'_>) -> Result<Sample> {
    let (mariadb, checksum): (bool, bool) = (u.arbitrary()?, u.arbitrary()?);
    let mut expected = Expected::default();
    let mut sample = Sample { log: [&MAGIC[..], &format(checksum)].concat(), ends: Vec::new() };
    sample.ends.push((sample.log.len(), String::new()));
    let number = |u: &mut Unstructured<'_>| u.int_in_range(1..=60_u64);
    for _ in 0..u.int_in_range(0..=20)? {
        if mariadb {
            expected.domains.insert(u.int_in_range(0..=3)?, (u.arbitrary()?, u.arbitrary()?));
        } else {
            expected.sets.entry(*u.choose(&ORIGINS)?).or_default().insert(number(u)?);
        }
    }
    let head = if mariadb {
        let mut body = (expected.domains.len() as u32).to_le_bytes().to_vec();
        for (domain, (server, number)) in &expected.domains {
            body.extend([&domain.to_le_bytes()[..], &server.to_le_bytes(), &number.to_le_bytes()].concat());
        }
        event(kind::MARIADB_GTID_LIST, 1, &body, checksum)
    } else {
        event(kind::PREVIOUS_GTIDS, 1, &expected.previous(u)?, checksum)
    };
    sample.log.extend(head);
    sample.ends.push((sample.log.len(), expected.shown()));
    for _ in 0..u.int_in_range(0..=8)? {
        let server: u32 = u.arbitrary()?;
        let mut add = |kind, body: &[u8]| sample.log.extend(event(kind, server, body, checksum));
        let is_statement: bool = u.arbitrary()?;
        if mariadb {
            let (domain, number): (u32, u64) = (u.int_in_range(0..=3)?, u.arbitrary()?);
            let body =
                [&number.to_le_bytes()[..], &domain.to_le_bytes(), &[u8::from(is_statement), 0, 0]].concat();
            add(kind::MARIADB_GTID, &body);
            expected.domains.insert(domain, (server, number));
        } else {
            let (origin, number) = (*u.choose(&ORIGINS)?, number(u)?);
            add(kind::GTID, &[&[0][..], &[origin; 16], &number.to_le_bytes(), &[2, 0, 0]].concat());
            expected.sets.entry(origin).or_default().insert(number);
        }
        if is_statement {
            add(kind::QUERY, &query("CREATE TABLE t (a INT)"));
        } else {
            add(kind::QUERY, &query(u.choose(&["BEGIN", "begin", "XA START 'x'"])?));
            for _ in 0..u.int_in_range(0..=3)? {
                let body: Vec<u8> = Vec::arbitrary(u)?;
                match u.int_in_range(0..=2)? {
                    0 => add(kind::QUERY, &query("SAVEPOINT `commit`")),
                    _ => add(*u.choose(&[19, 30, 31, 32, 5, 13, 14, 29])?, &body),
                }
            }
            match u.int_in_range(0..=2)? {
                0 => add(kind::XID, &[0; 8]),
                1 => add(kind::QUERY, &query("COMMIT")),
                _ => add(kind::XA_PREPARE, &[0; 8]),
            }
        }
        sample.ends.push((sample.log.len(), expected.shown()));
    }
    Ok(sample)
}

/// Cut off anywhere, a log ends with its last transaction that is whole; cut off there, it ends in the same way.
pub fn of_transactions(u: &mut Unstructured<'_>) -> Result<()> {
    let Sample { log, ends } = sample(u)?;
    let cut = u.int_in_range(MAGIC.len()..=log.len())?;
    let found = end(&fuzz::file(&log[..cut]));
    let Some((position, gtids)) = ends.iter().rfind(|(position, _)| *position <= cut) else {
        assert!(matches!(found, Err(Failure::Format(..))), "cut to {cut}: {found:?}");
        return Ok(());
    };
    let found = found.unwrap_or_else(|error| panic!("cut to {cut}: {error:?}"));
    let shown = |end: &End| (end.position, end.gtids.as_ref().map(ToString::to_string));
    assert_eq!(shown(&found), (*position as u64, Some(gtids.clone())), "cut to {cut}");
    let again = end(&fuzz::file(&log[..*position])).expect("the same log");
    assert_eq!(again, found, "cut off at its end");
    Ok(())
}

/// Of a log that was damaged, the position is still one in it.
pub fn damaged(u: &mut Unstructured<'_>) -> Result<()> {
    let Sample { mut log, .. } = sample(u)?;
    fuzz::damage(&mut log, u)?;
    match end(&fuzz::file(&log)) {
        Ok(end) => {
            assert!(end.position <= log.len() as u64, "{end:?} of {}", log.len());
            let _ = end.gtids.map(|gtids| gtids.to_string());
        }
        Err(Failure::Format(_, at)) => assert!(at <= log.len() as u64),
        Err(Failure::Io(error)) => panic!("{error}"),
    }
    Ok(())
}

/// Sets of numbers come out as they went in, in one spelling; bodies of anybody are no harm.
pub fn gtid_sets(u: &mut Unstructured<'_>) -> Result<()> {
    let mut expected = Expected::default();
    for _ in 0..u.int_in_range(0..=40)? {
        expected.sets.entry(*u.choose(&ORIGINS)?).or_default().insert(u.int_in_range(1..=50)?);
    }
    let mut body = expected.previous(u)?;
    let mut gtids = Gtids::previous(&body).expect("a set");
    assert_eq!(gtids.to_string(), expected.shown());
    for _ in 0..u.int_in_range(0..=20)? {
        let (origin, number) = (*u.choose(&ORIGINS)?, u.int_in_range(1..=60)?);
        expected.sets.entry(origin).or_default().insert(number);
        let gtid = Gtid::plain(&[&[0][..], &[origin; 16], &u64::to_le_bytes(number)].concat());
        gtids.add(gtid.expect("a GTID"));
    }
    assert_eq!(gtids.to_string(), expected.shown());
    fuzz::damage(&mut body, u)?;
    if u.ratio(1, 4)? {
        body = Vec::arbitrary(u)?;
    }
    for gtids in [Gtids::previous(&body), Gtids::list(&body)].into_iter().flatten() {
        let _ = gtids.to_string();
    }
    let _ = (Gtid::plain(&body), Gtid::tagged(&body), Gtid::mariadb(&body, 1));
    Ok(())
}
