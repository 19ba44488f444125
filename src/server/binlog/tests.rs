use super::*;
use std::io::Write;

fn event(kind: u8, server: u32, body: &[u8], checksum: bool) -> Vec<u8> {
    let mut event = vec![0; 4];
    event.push(kind);
    event.extend(server.to_le_bytes());
    let size = HEADER as usize + body.len() + if checksum { 4 } else { 0 };
    event.extend((size as u32).to_le_bytes());
    event.extend([0; 6]);
    event.extend(body);
    event.extend(if checksum { vec![0xcc; 4] } else { Vec::new() });
    event
}

fn format(algorithm: u8) -> Vec<u8> {
    let mut body = vec![4, 0];
    body.extend([b'9'; 50]);
    body.extend([0; 4]);
    body.push(HEADER as u8);
    body.extend([0, 13]);
    body.extend([0; 40]);
    body.extend([algorithm, 0, 0, 0, 0]);
    event(kind::FORMAT_DESCRIPTION, 1, &body, false)
}

fn query(text: &str) -> Vec<u8> {
    let mut body = vec![0; 8];
    body.extend([1, 0, 0, 2, 0, 0xaa, 0xbb, b'd', 0]);
    body.extend(text.as_bytes());
    body
}

fn mysql_gtid(number: u64) -> Vec<u8> {
    [&[0][..], &[0x11; 16], &number.to_le_bytes(), &[2, 0, 0]].concat()
}

fn mariadb_gtid(number: u64, domain: u32, flags: u8) -> Vec<u8> {
    [&number.to_le_bytes()[..], &domain.to_le_bytes(), &[flags, 0, 0]].concat()
}

fn previous(intervals: &[(u64, u64)]) -> Vec<u8> {
    let mut body = [&1u64.to_le_bytes()[..], &[0x11; 16], &(intervals.len() as u64).to_le_bytes()].concat();
    for (start, end) in intervals {
        body.extend(start.to_le_bytes());
        body.extend(end.to_le_bytes());
    }
    body
}

fn read(log: &[u8]) -> Result<End, Failure> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(log).unwrap();
    end(&file)
}

/// Position and GTIDs after the whole log, and at every cut of it no later ones than the ends that are given.
fn check(events: &[Vec<u8>], complete: &[(usize, &str)]) {
    let mut log = MAGIC.to_vec();
    let mut expected = Vec::new();
    for (i, event) in events.iter().enumerate() {
        log.extend(event);
        if let Some((_, gtids)) = complete.iter().find(|(after, _)| *after == i) {
            expected.push((log.len() as u64, (*gtids).to_owned()));
        }
    }
    let mut ends: Vec<usize> = events
        .iter()
        .scan(MAGIC.len(), |at, event| {
            *at += event.len();
            Some(*at)
        })
        .collect();
    ends.insert(0, MAGIC.len());
    // Every cut but those amid a long event.
    for cut in (MAGIC.len()..=log.len()).filter(|cut| ends.iter().any(|end| end.abs_diff(*cut) < 50)) {
        let found = read(&log[..cut]);
        let wanted = expected.iter().rev().find(|(end, _)| *end <= cut as u64);
        match (found, wanted) {
            (Ok(found), Some((position, gtids))) => {
                assert_eq!((found.position, found.gtids.unwrap().to_string()), (*position, gtids.clone()));
            }
            (Err(Failure::Format(..)), None) => {}
            (found, wanted) => panic!("cut to {cut}: {found:?}, not {wanted:?}"),
        }
    }
}

const UUID: &str = "11111111-1111-1111-1111-111111111111";

#[test]
fn mysql_with_gtids() {
    let event = |kind, body: &[u8]| event(kind, 7, body, true);
    let at = |set: &str| format!("{UUID}:{set}");
    check(
        &[
            format(1),
            event(kind::PREVIOUS_GTIDS, &previous(&[(1, 4), (6, 7)])),
            // A transaction of rows.
            event(kind::GTID, &mysql_gtid(5)),
            event(kind::QUERY, &query("BEGIN")),
            event(19, &[1; 30]),
            event(30, &vec![2; 100_000]),
            event(kind::QUERY, &query("SAVEPOINT a")),
            event(kind::XID, &[0; 8]),
            // DDL.
            event(kind::GTID, &mysql_gtid(4)),
            event(kind::QUERY, &query("CREATE TABLE t (a INT)")),
            // What is compressed as a whole.
            event(kind::GTID, &mysql_gtid(9)),
            event(kind::TRANSACTION_PAYLOAD, &[3; 50]),
            // Without transactions: statements, values before them.
            event(kind::ANONYMOUS_GTID, &mysql_gtid(0)),
            event(kind::QUERY, &query("begin")),
            event(5, &[0; 9]),
            event(kind::QUERY, &query("INSERT INTO t VALUES (1)")),
            event(kind::QUERY, &query("COMMIT")),
            // Two phases.
            event(kind::GTID, &mysql_gtid(10)),
            event(kind::QUERY, &query("XA START X'61',X'',1")),
            event(kind::QUERY, &query("XA END X'61',X'',1")),
            event(kind::XA_PREPARE, &[0; 10]),
            event(kind::GTID, &mysql_gtid(11)),
            event(kind::QUERY, &query("XA COMMIT X'61',X'',1")),
            event(kind::ROTATE, b"........bl.000002"),
        ],
        &[
            (0, ""),
            (1, &at("1-3:6")),
            (7, &at("1-3:5-6")),
            (9, &at("1-6")),
            (11, &at("1-6:9")),
            (16, &at("1-6:9")),
            (20, &at("1-6:9-10")),
            (22, &at("1-6:9-11")),
            (23, &at("1-6:9-11")),
        ],
    );
}

#[test]
fn mysql_without_gtids_and_checksums() {
    let event = |kind, body: &[u8]| event(kind, 7, body, false);
    check(
        &[
            format(0),
            event(kind::PREVIOUS_GTIDS, &0u64.to_le_bytes()),
            event(kind::QUERY, &query("BEGIN")),
            event(kind::QUERY, &query("UPDATE t SET a = 1")),
            event(kind::QUERY, &query("ROLLBACK")),
            event(5, &[0; 9]),
            event(kind::QUERY, &query("CREATE TABLE u SELECT 1")),
        ],
        &[(0, ""), (1, ""), (4, ""), (6, "")],
    );
}

#[test]
fn mariadb() {
    let event = |kind, server, body: &[u8]| event(kind, server, body, true);
    let mut list = 3u32.to_le_bytes().to_vec();
    for (domain, server, number) in [(0u32, 2u32, 7u64), (0, 1, 5), (4, 1, 1)] {
        list.extend([&domain.to_le_bytes()[..], &server.to_le_bytes(), &number.to_le_bytes()].concat());
    }
    check(
        &[
            format(1),
            event(kind::MARIADB_GTID_LIST, 1, &list),
            event(kind::MARIADB_BINLOG_CHECKPOINT, 1, b"bl"),
            // DDL with a value before it.
            event(kind::MARIADB_GTID, 1, &mariadb_gtid(6, 0, 1)),
            event(5, 1, &[0; 9]),
            event(kind::QUERY, 1, &query("CREATE TABLE t SELECT 1")),
            // A transaction needs no BEGIN.
            event(kind::MARIADB_GTID, 9, &mariadb_gtid(8, 0, 12)),
            event(kind::QUERY, 1, &query("INSERT INTO t VALUES (1)")),
            event(kind::MARIADB_QUERY_COMPRESSED, 1, &query("INSERT INTO t VALUES (1)")),
            event(kind::XID, 1, &[0; 8]),
            event(kind::MARIADB_BINLOG_CHECKPOINT, 1, b"bl"),
            event(kind::MARIADB_GTID, 1, &mariadb_gtid(2, 4, 12)),
            event(166, 1, &[0; 30]),
            event(kind::QUERY, 1, &query("COMMIT")),
        ],
        &[
            (0, ""),
            (1, "0-1-5,4-1-1"),
            (2, "0-1-5,4-1-1"),
            (5, "0-1-6,4-1-1"),
            (9, "0-9-8,4-1-1"),
            (10, "0-9-8,4-1-1"),
            (13, "0-9-8,4-1-2"),
        ],
    );
}

#[test]
fn a_transaction_that_another_follows_is_whole() {
    let event = |kind, body: &[u8]| event(kind, 7, body, true);
    let begun = [MAGIC.to_vec(), format(1), event(kind::GTID, &mysql_gtid(1)), event(99, &[0; 10])].concat();
    assert_eq!(read(&begun).unwrap().position, (MAGIC.len() + format(1).len()) as u64);
    let followed = [begun.clone(), event(kind::GTID, &mysql_gtid(2)), event(99, &[0; 10])].concat();
    let found = read(&followed).unwrap();
    assert_eq!(found.position, begun.len() as u64);
    assert_eq!(found.gtids.unwrap().to_string(), format!("{UUID}:1"));
}

/// Taken from MySQL 9.7.4: previous GTIDs with two tags, and a GTID of number 70,000,000,000.
#[test]
fn tags() {
    let bytes = |hex: &str| -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    };
    let previous = bytes(
        "0103000000000001 b6165b33e6ee11f1a4aa02fc00000001 00 0100000000000000 0100000000000000 0400000000000000
         b6165b33e6ee11f1a4aa02fc00000001 0c6d795f746167 0100000000000000 0100000000000000 0300000000000000
         b6165b33e6ee11f1a4aa02fc00000001 0278 0100000000000000 0100000000000000 0200000000000000",
    );
    let tagged = bytes(
        "0276000000 02 0246ed02ed020000222244446666 8888aaaa 041f009e292608 060c6d795f746167 0804 0a08
         0c7ff412d343e960 061031 04128312 0b",
    );
    let mut gtids = Gtids::previous(&previous).unwrap();
    assert_eq!(gtids.to_string(), "b6165b33-e6ee-11f1-a4aa-02fc00000001:1-3:my_tag:1-2:x:1");
    gtids.add(Gtid::tagged(&tagged).unwrap());
    assert_eq!(
        gtids.to_string(),
        "0123bbbb-0000-1111-2222-333344445555:my_tag:70000000000,\
         b6165b33-e6ee-11f1-a4aa-02fc00000001:1-3:my_tag:1-2:x:1"
    );
    for cut in 0..previous.len() {
        assert_eq!(Gtids::previous(&previous[..cut]), None);
    }
    for cut in 0..39 {
        assert_eq!(Gtid::tagged(&tagged[..cut]), None);
    }
}

#[test]
fn intervals_grow_together() {
    let mut gtids = Gtids::default();
    let origin = || ([0x11; 16], Vec::new());
    for number in [5, 7, 1, 6, 2, 9, 2] {
        gtids.add(Gtid::MySql(origin(), number));
    }
    assert_eq!(gtids.to_string(), format!("{UUID}:1-2:5-7:9"));
    let overlapping = Gtids::previous(&previous(&[(1, 3), (2, 9), (20, 30), (8, 21)])).unwrap();
    assert_eq!(overlapping.to_string(), format!("{UUID}:1-29"));
}

#[test]
fn what_is_encrypted_is_said_to_be() {
    let mysql = [&MAGIC_ENCRYPTED[..], &[0; 508], &[7; 100]].concat();
    assert_eq!(read(&mysql).unwrap(), End { position: 100, gtids: None });
    let mut maria = [MAGIC.to_vec(), format(1)].concat();
    maria.extend(event(kind::MARIADB_START_ENCRYPTION, 1, &[1; 17], true));
    maria.extend([0x55; 77]);
    assert_eq!(read(&maria).unwrap(), End { position: maria.len() as u64, gtids: None });
}

/// Whatever the bytes are, there is an answer: random ones behind a good beginning, and good logs with random
/// bytes changed.
#[test]
fn damage_is_survived() {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut state = seed | 1;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut good = [MAGIC.to_vec(), format(1)].concat();
    let head = good.len();
    for (kind, body) in [
        (kind::PREVIOUS_GTIDS, previous(&[(1, 4)])),
        (kind::GTID, mysql_gtid(5)),
        (kind::GTID_TAGGED, vec![2, 0x76, 0, 0, 2, 2, 0xff, 0xff]),
        (kind::MARIADB_GTID, mariadb_gtid(1, 2, 3)),
        (kind::QUERY, query("BEGIN")),
        (kind::XID, vec![0; 8]),
    ] {
        good.extend(event(kind, 1, &body, true));
    }
    let (mut ends, mut failures) = (0, 0);
    for _ in 0..3000 {
        let mut log = good.clone();
        for _ in 0..1 + random(4) {
            let at = MAGIC.len() + random(log.len() - MAGIC.len());
            log[at] = random(256) as u8;
        }
        if random(4) == 0 {
            log.truncate(head + random(log.len() - head));
        }
        match read(&log) {
            Ok(end) => {
                assert!(end.position <= log.len() as u64);
                ends += 1;
            }
            Err(Failure::Format(_, at)) => {
                assert!(at <= log.len() as u64);
                failures += 1;
            }
            Err(Failure::Io(error)) => panic!("{error}"),
        }
    }
    assert!(ends > 0 && failures > 0, "{ends} read, {failures} refused");
}
