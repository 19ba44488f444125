//! The progress in words.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{Phase, Snapshot};

/// What a file's path may take of a line's 500 bytes.
const LONGEST_PATH: usize = 240;

/// One line for the processlist, at most 500 bytes of printable UTF-8.
pub fn state_line(snapshot: &Snapshot) -> String {
    let percent = snapshot.percent();
    let mut line = match snapshot.phase {
        Phase::Idle => "no backup runs".to_owned(),
        Phase::Preparing => "backup: preparing".to_owned(),
        Phase::Copying if snapshot.paused => {
            format!("backup: paused (throttle 0) at {percent}%, {}", copied(snapshot))
        }
        Phase::Copying => format!("backup: {percent}% copied, {}{}", copied(snapshot), speed(snapshot)),
        Phase::Converging if snapshot.paused => {
            format!("backup: paused (throttle 0) at {percent}%, pass {}", snapshot.passes)
        }
        Phase::Converging => format!(
            "backup: {percent}%, pass {}, copying again what changed: {} of {}, {}/s",
            snapshot.passes,
            bytes(snapshot.pass_bytes_done.min(snapshot.pass_bytes_total)),
            bytes(snapshot.pass_bytes_total),
            bytes(snapshot.bytes_per_second),
        ),
        Phase::Gate => format!("backup: {percent}%, waiting for a moment without writes to end the capture"),
        Phase::Finishing => format!("backup: {percent}%, making the copy durable"),
        Phase::Draining => "backup: ended, waiting for the destination to answer".to_owned(),
    };
    if let (Phase::Copying, Some((path, done, size))) = (snapshot.phase, &snapshot.file) {
        line.push_str(&format!(": {} ({} of {})", shorten(path), bytes(*done.min(size)), bytes(*size)));
    }
    line
}

fn copied(snapshot: &Snapshot) -> String {
    format!(
        "{} of {}, {} of {} files",
        bytes(snapshot.bytes_done.min(snapshot.bytes_total)),
        bytes(snapshot.bytes_total),
        snapshot.files_done.min(snapshot.files_total),
        snapshot.files_total
    )
}

fn speed(snapshot: &Snapshot) -> String {
    let left = snapshot.bytes_total.saturating_sub(snapshot.bytes_done);
    let mut text = format!(", {}/s, {} left", bytes(snapshot.bytes_per_second), bytes(left));
    if let Some(seconds) = left.checked_div(snapshot.bytes_per_second) {
        text.push_str(&format!(" (about {})", time(seconds)));
    }
    text
}

/// Bytes for people, rounded down: "12 B", "1.5 KiB".
fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut text = format!("{count} B");
    let mut size = 1024;
    for unit in UNITS {
        if count < size {
            break;
        }
        let tenths = count % size / (size / 1024) * 10 / 1024;
        text = format!("{}.{tenths} {unit}", count / size);
        size = size.saturating_mul(1024);
    }
    text
}

/// A time for people, in its two largest units.
fn time(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, _, _) => format!("{days} d {hours} h"),
    }
}

/// A path on one line, without what a terminal would act on; of a long one the end.
fn shorten(path: &Path) -> String {
    let text = String::from_utf8_lossy(path.as_os_str().as_bytes());
    let text = text.replace(char::is_control, "?");
    if text.len() <= LONGEST_PATH {
        return text;
    }
    let mut from = text.len() - (LONGEST_PATH - 3);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    format!("...{}", text.get(from..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (1 << 20, "1.0 MiB"),
            ((10 << 30) - 1, "9.9 GiB"),
            (10 << 30, "10.0 GiB"),
            (5 << 40, "5.0 TiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn times() {
        for (seconds, text) in
            [(0, "0 s"), (59, "59 s"), (62, "1 min 2 s"), (3600, "1 h 0 min"), (90_061, "1 d 1 h")]
        {
            assert_eq!(time(seconds), text);
        }
    }

    #[test]
    fn long_paths_show_their_end() {
        let path = format!("/{}é/t1.ibd", "é".repeat(300));
        let short = shorten(Path::new(&path));
        assert!(short.len() <= LONGEST_PATH && short.len() > LONGEST_PATH - 4, "{} bytes", short.len());
        assert!(short.starts_with("...é") && short.ends_with("é/t1.ibd"), "{short}");
        assert_eq!(shorten(Path::new("/a\nb\u{9b}c")), "/a?b?c");
    }
}
