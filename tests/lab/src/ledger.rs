//! What clients know of their own commits, kept outside of the server: the measure of every image.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, since the epoch (CLOCK_REALTIME, by which a backup tells its instant T).
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A commit that the server acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Before it was asked for, since the epoch.
    pub begun: Duration,
    /// When the answer had come, since the epoch.
    pub acknowledged: Duration,
}

/// The commits of one client in one journal table, in their order: the n-th one has the sequence number n, from 1.
#[derive(Clone, Debug)]
pub struct Stream {
    /// The journal's table, as `bank.journal`.
    pub table: &'static str,
    /// The client's number.
    pub client: u32,
    /// The acknowledged ones.
    pub commits: Vec<Commit>,
    /// When the one was begun whose answer never came.
    pub pending: Option<Duration>,
}

/// What must and what may be in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instant {
    /// A commit acknowledged until then is in the image.
    pub complete_to: Duration,
    /// A commit begun after that is not.
    pub nothing_from: Duration,
}

impl Instant {
    /// The instant T of a backup, which is told from inside the closed gate: exact in both directions.
    pub fn at(t: Duration) -> Instant {
        Instant { complete_to: t, nothing_from: t }
    }

    /// Everything that was ever acknowledged, as after a crash of the server itself.
    pub fn end() -> Instant {
        Instant { complete_to: Duration::MAX, nothing_from: Duration::MAX }
    }
}

impl Stream {
    /// The least and the greatest last sequence number that an image of this instant can have.
    pub fn bounds(&self, instant: Instant) -> (u64, u64) {
        let must = self.commits.iter().filter(|c| c.acknowledged <= instant.complete_to).count();
        let begun = self.commits.iter().map(|c| c.begun).chain(self.pending);
        let may = begun.filter(|begun| *begun <= instant.nothing_from).count();
        (must as u64, may as u64)
    }

    /// Compares with the sequence numbers that an image has, in any order.
    pub fn compare(&self, instant: Instant, found: &[u64]) -> Option<String> {
        let mut found = found.to_vec();
        found.sort_unstable();
        let last = found.len() as u64;
        let (must, may) = self.bounds(instant);
        let who = format!("{}, client {}", self.table, self.client);
        if let Some(at) = found.iter().zip(1..).position(|(found, wanted)| *found != wanted) {
            let (found, wanted) = (found[at], at + 1);
            return Some(format!("{who}: the journal has {found} where {wanted} should be, of {last} rows"));
        }
        if last < must {
            return Some(format!("{who}: {must} commits were acknowledged before T, the image has {last}"));
        }
        if last > may {
            return Some(format!("{who}: the image has {last} commits, only {may} were begun before T"));
        }
        None
    }
}

/// What all clients of one round know.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The round's number: rows of other rounds do not count.
    pub round: u64,
    /// Every client's commits.
    pub streams: Vec<Stream>,
}

/// What a client's commits looked like in a span of time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Acknowledged commits per second.
    pub per_second: f64,
    /// The longest time that one took.
    pub longest: Duration,
}

impl Ledger {
    /// How many commits of all clients were acknowledged.
    pub fn commits(&self) -> usize {
        self.streams.iter().map(|stream| stream.commits.len()).sum()
    }

    /// The pace of the transactions between two times.
    pub fn pace(&self, from: Duration, to: Duration) -> Pace {
        let inside = |c: &&Commit| c.acknowledged >= from && c.acknowledged < to;
        let commits = || self.streams.iter().flat_map(|stream| &stream.commits).filter(inside);
        let seconds = to.saturating_sub(from).as_secs_f64().max(0.001);
        Pace {
            per_second: commits().count() as f64 / seconds,
            longest: commits().map(|c| c.acknowledged - c.begun).max().unwrap_or_default(),
        }
    }

    /// Compares every client's commits with the journal of an image: per table and client the sequence numbers.
    pub fn compare(&self, instant: Instant, found: &Journals) -> Vec<String> {
        let none = Vec::new();
        let of = |stream: &Stream| found.get(&(stream.table.to_owned(), stream.client)).unwrap_or(&none);
        self.streams.iter().filter_map(|stream| stream.compare(instant, of(stream))).collect()
    }

    /// Writes it to a file, a line a commit: table, client, sequence number, both times.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        for stream in &self.streams {
            for (commit, number) in stream.commits.iter().zip(1..) {
                let Commit { begun, acknowledged } = commit;
                let (begun, acknowledged) = (begun.as_secs_f64(), acknowledged.as_secs_f64());
                writeln!(file, "{} {} {number} {begun:.6} {acknowledged:.6}", stream.table, stream.client)?;
            }
            if let Some(begun) = stream.pending {
                writeln!(file, "{} {} pending {:.6}", stream.table, stream.client, begun.as_secs_f64())?;
            }
        }
        file.flush()
    }
}

/// Sequence numbers by journal table and client.
pub type Journals = BTreeMap<(String, u32), Vec<u64>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Stream {
        let commit = |begun: u64, acknowledged: u64| Commit {
            begun: Duration::from_secs(begun),
            acknowledged: Duration::from_secs(acknowledged),
        };
        Stream {
            table: "t",
            client: 1,
            commits: vec![commit(1, 2), commit(3, 4), commit(5, 8)],
            pending: Some(Duration::from_secs(9)),
        }
    }

    #[test]
    fn what_an_image_can_have() {
        let bounds = |t: u64| stream().bounds(Instant::at(Duration::from_secs(t)));
        assert_eq!([bounds(0), bounds(1), bounds(2)], [(0, 0), (0, 1), (1, 1)]);
        assert_eq!([bounds(6), bounds(8), bounds(10)], [(2, 3), (3, 3), (3, 4)]);
        assert_eq!(stream().bounds(Instant::end()), (3, 4));
    }

    #[test]
    fn what_is_noticed() {
        let compare = |found: &[u64]| stream().compare(Instant::at(Duration::from_secs(6)), found);
        assert_eq!(compare(&[1, 2]), None);
        assert_eq!(compare(&[3, 1, 2]), None);
        assert!(compare(&[1]).is_some_and(|text| text.contains("acknowledged")));
        assert!(compare(&[1, 2, 3, 4]).is_some_and(|text| text.contains("begun")));
        assert!(compare(&[1, 3]).is_some_and(|text| text.contains("3 where 2")));
        assert!(compare(&[1, 2, 2]).is_some_and(|text| text.contains("2 where 3")));
    }
}
