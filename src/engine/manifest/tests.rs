use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use super::*;

fn raw(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

fn sample() -> Manifest {
    let file = |path: PathBuf, kind, target: Option<PathBuf>| Entry {
        path,
        kind,
        size: 16384,
        mode: 0o640,
        mtime: Mtime { seconds: 1_700_000_000, nanoseconds: 1 },
        target,
    };
    Manifest {
        format: FORMAT,
        library: "1.0.0".into(),
        plugin: "1.0.0-rc1".into(),
        server: Some(Server { flavour: "MySQL".into(), version: "9.7.4".into() }),
        started: Time(Duration::from_micros(1_785_587_695_000_001)),
        ended: Time(Duration::from_micros(1_785_587_699_999_999)),
        instant: Time(Duration::from_micros(1_785_587_699_000_000)),
        passes: 3,
        gate_micros: 412,
        gate_bytes: 32768,
        lock_micros: 0,
        sources: vec![
            Source { path: Name("/var/lib/mysql".into()), image: "mysql_data_dir".into() },
            Source { path: Name(raw(b"/logs\xFF")), image: "mysql_log_bin".into() },
        ],
        binlog: Some(Binlog {
            file: "binlog.000002".into(),
            file_hex: None,
            size: 4711,
            position: Some(4700),
            gtid_mode: Some("ON".into()),
            gtid: Some("0-1-42".into()),
            unknown: None,
        }),
        moved: vec![Moved { path: Name("mysql_data_dir/d/t.ibd".into()), from: Name("/big/d/t.ibd".into()) }],
        unseen: vec![Name("/var/lib/mysql/x".into()), Name(raw(b"/\x80"))],
        files: vec![
            Entry { size: 0, mode: 0o2750, ..file("mysql_data_dir/test".into(), Kind::Directory, None) },
            file("mysql_data_dir/test/t\"1\n\u{e9}.ibd".into(), Kind::File, None),
            file(raw(b"mysql_data_dir/\xFF\x00t"), Kind::File, None),
            file("mysql_data_dir/l".into(), Kind::Link, Some("test/t1".into())),
            file("mysql_data_dir/m".into(), Kind::Link, Some(raw(b"\xC3"))),
        ],
    }
}

fn text(manifest: &Manifest) -> String {
    let mut bytes = Vec::new();
    manifest.write(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn what_is_written_is_read() {
    let manifest = sample();
    assert_eq!(Manifest::read(text(&manifest).as_bytes()).unwrap(), manifest);
    let bare = Manifest {
        server: None,
        binlog: None,
        files: Vec::new(),
        moved: Vec::new(),
        unseen: Vec::new(),
        ..manifest
    };
    assert_eq!(Manifest::read(text(&bare).as_bytes()).unwrap(), bare);
}

#[test]
fn it_reads_well() {
    let text = text(&sample());
    for line in [
        "\"format\": 1,",
        "\"server\": {\"flavour\": \"MySQL\", \"version\": \"9.7.4\"},",
        "\"started\": \"2026-08-01T12:34:55.000001Z\",",
        "\"sources\": [",
        "{\"path\": \"/var/lib/mysql\", \"image\": \"mysql_data_dir\"},",
        "{\"path_hex\": \"2f6c6f6773ff\", \"image\": \"mysql_log_bin\"}],",
        "\"binlog\": {\"file\": \"binlog.000002\", \"size\": 4711, \"position\": 4700, \"gtid_mode\": \"ON\", \
         \"gtid\": \"0-1-42\"},",
        "{\"path\": \"mysql_data_dir/test\", \"kind\": \"directory\", \"size\": 0, \"mode\": \"2750\", \
         \"mtime\": \"1700000000.000000001\"},",
        "{\"path_hex\": \"6d7973716c5f646174615f6469722fff0074\", \"kind\": \"file\", \"size\": 16384, \
         \"mode\": \"0640\", \"mtime\": \"1700000000.000000001\"},",
    ] {
        assert!(text.lines().any(|other| other == line), "no line {line}\n{text}");
    }
    assert!(text.ends_with("\n}\n"));
}

/// Names of any bytes: the text is JSON whose lines nobody can forge, and each is read back as it was.
#[test]
fn no_name_confuses_a_reader() {
    let mut names: Vec<Vec<u8>> =
        (1..=u8::MAX).filter(|byte| *byte != b'/').map(|byte| vec![b'd', byte]).collect();
    for name in [
        &b"x\", \"kind\": \"directory"[..],
        b"x\"},\n{\"path\": \"y",
        b"\\",
        b"\\u0041",
        b"\xE2\x80\xA8line\xE2\x80\xA9separators",
        b"\xEF\xBB\xBFmark of order",
        b"\xE2\x80\xAEetad.dbi",
        b"\xED\xA0\x80 half of a pair",
        b"\xC0\xAE\xC0\xAE",
        b"64ff",
    ] {
        names.push(name.to_vec());
    }
    let sample = sample();
    let file = |name: &Vec<u8>| Entry {
        path: PathBuf::from("mysql_data_dir").join(raw(name)),
        target: Some(raw(name)),
        kind: Kind::Link,
        ..sample.files[1].clone()
    };
    let manifest = Manifest {
        files: names.iter().map(file).collect(),
        unseen: names.iter().map(|name| Name(raw(name))).collect(),
        server: Some(Server { flavour: "a\"\n}".into(), version: "\u{1}\u{7f}\\".into() }),
        ..sample.clone()
    };
    let text = text(&manifest);
    assert_eq!(Manifest::read(text.as_bytes()).unwrap(), manifest);
    assert!(text.bytes().all(|byte| byte == b'\n' || byte >= b' '), "control characters");
    let files: Vec<&str> = text.lines().filter(|line| line.contains("\"kind\": \"link\"")).collect();
    assert_eq!(files.len(), names.len(), "an element a line");
    for (line, name) in files.iter().zip(&names) {
        let entry: serde_json::Value = serde_json::from_str(line.trim_end_matches([',', ']'])).unwrap();
        let path = [b"mysql_data_dir/", &name[..]].concat();
        match std::str::from_utf8(&path) {
            Ok(path) => assert_eq!((entry["path"].as_str(), entry.get("path_hex")), (Some(path), None)),
            Err(_) => {
                let hex: String = path.iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!((entry.get("path"), entry["path_hex"].as_str()), (None, Some(&*hex)));
            }
        }
    }
}

#[test]
fn damage_is_noticed() {
    let good = text(&sample());
    for (from, to) in [
        ("\"format\": 1,", "\"format\": 2,"),
        ("mysql_data_dir/test\"", "mysql_data_dir/../test\""),
        ("\"mysql_data_dir/test\"", "\"/mysql_data_dir/test\""),
        ("\"mysql_data_dir/test\"", "\"\""),
        ("\"2750\"", "\"2789\""),
        ("\"2750\"", "\"17777\""),
        ("\"directory\"", "\"link\""),
        ("\"directory\"", "\"socket\""),
        ("\"target\": \"test/t1\"", "\"tarte\": \"test/t1\""),
        ("\"target\": \"test/t1\"", "\"target\": \"test/t1\", \"target_hex\": \"00\""),
        ("2f6c6f6773ff", "2f6c6f6773f"),
        ("2f6c6f6773ff", "2f6c6f6773fg"),
        ("12:34:55.000001Z", "12:34:65.000001Z"),
        ("12:34:55.000001Z", "12:34:55.000001"),
        ("2026-08-01", "2026-02-30"),
        ("1700000000.000000001", "1700000000.1"),
        ("\"gate_micros\": 412,\n", ""),
        ("\n}\n", ""),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from} is not in the sample");
        let error = Manifest::read(bad.as_bytes()).expect_err(to);
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{from} -> {to}");
    }
}

#[test]
fn a_writers_error_comes_through() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::Error::from_raw_os_error(libc::ENOSPC))?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut big = sample();
    big.files = vec![big.files[0].clone(); 10_000];
    let error = big.write(Full(1 << 20)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    big.write(Full(4 << 20)).unwrap();
}

#[test]
fn two_hundred_thousand_files() {
    let mut manifest = sample();
    let one = manifest.files[1].clone();
    let name = |n| format!("mysql_data_dir/db{}/t{n}.ibd", n % 100).into();
    manifest.files = (0..200_000).map(|n| Entry { path: name(n), ..one.clone() }).collect();
    let mut file = tempfile::tempfile().unwrap();
    manifest.write(&mut file).unwrap();
    io::Seek::rewind(&mut file).unwrap();
    assert!(Manifest::read(file).unwrap() == manifest);
}

#[test]
fn dates() {
    // As date(1) prints them.
    for (seconds, text) in [
        (0, "1970-01-01T00:00:00.000000Z"),
        (951_782_399, "2000-02-28T23:59:59.000000Z"),
        (951_782_400, "2000-02-29T00:00:00.000000Z"),
        (951_868_800, "2000-03-01T00:00:00.000000Z"),
        (1_709_164_800, "2024-02-29T00:00:00.000000Z"),
        (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
        (1_735_689_600, "2025-01-01T00:00:00.000000Z"),
        (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        (4_107_542_399, "2100-02-28T23:59:59.000000Z"),
        (253_402_300_799, "9999-12-31T23:59:59.000000Z"),
    ] {
        let time = Time(Duration::from_secs(seconds));
        assert_eq!(time.to_string(), text);
        assert_eq!(text.parse(), Ok(time));
    }
    for day in 0..200_000 {
        let time = Time(Duration::from_secs(day * 86_400 + 1));
        assert_eq!(time.to_string().parse(), Ok(time));
    }
}

#[test]
fn times_of_files() {
    for (seconds, nanoseconds, text) in [
        (0, 0, "0.000000000"),
        (-2, 999_999_999, "-2.999999999"),
        (i64::MAX, 5, "9223372036854775807.000000005"),
    ] {
        let time = Mtime { seconds, nanoseconds };
        assert_eq!(String::from(time), text);
        assert_eq!(Mtime::try_from(text.to_owned()), Ok(time));
    }
    for text in ["", "1", "1.", ".1", "1.0000000001", "1.1234567890", "+1.000000000", "x.000000000"] {
        assert!(Mtime::try_from(text.to_owned()).is_err(), "{text}");
    }
}
