//! What a server that is a replica replicates, for `tokubackup_slave_info`, and its SQL threads at rest around T.

use std::fmt::Write as _;
use std::time::Duration;

use tokudb_backup_abi::common::Thd;

use super::one_line;
use crate::engine::error::{Error, Result};
use crate::server::Server;
use crate::server::replica::{Channel, Replica};

/// Name of the file in the destination.
pub const INFO: &str = "tokubackup_slave_info";

/// Looks at the replica just before T, with its SQL threads stopped when `safe_slave` says for how long to try, and
/// returns it with the text of the file; no text for a server that is no replica. The SQL threads go on when the
/// replica is dropped.
pub fn look(
    server: &dyn Server,
    thd: Thd,
    safe_slave: Option<Duration>,
    poll: &mut dyn FnMut() -> Result<()>,
) -> Result<(Replica, Option<String>)> {
    match server.replica(thd, safe_slave, poll) {
        Ok(replica) => {
            let text = (!replica.channels.is_empty()).then(|| info(&replica.channels, replica.at_rest));
            Ok((replica, text))
        }
        Err(error) if safe_slave.is_some() || error.errno == libc::EINTR => Err(error),
        // The images do not depend on it.
        Err(error) => Ok((Replica::default(), Some(unknown(&error)))),
    }
}

/// A line a connection, as the earlier plugin wrote it, and what they are worth.
fn info(channels: &[Channel], at_rest: bool) -> String {
    let mut text = String::new();
    for channel in channels {
        let Channel { name, host, user, port, source_log, position, relay_log, gtid, .. } = channel;
        let values = [name, host, user, port, source_log, position, relay_log, gtid];
        let [name, host, user, port, source_log, position, relay_log, gtid] =
            values.map(|value| one_line(value));
        let _ = writeln!(
            text,
            "host: {host}, user: {user}, port: {port}, master log file: {source_log}, relay log file: {relay_log}, \
             exec master log pos: {position}, executed gtid set: {gtid}, channel name: {name}"
        );
    }
    for channel in channels.iter().filter(|channel| channel.by_gtid) {
        let name = one_line(&channel.name);
        let _ = writeln!(text, "# channel '{name}' asks its source by GTIDs (auto position)");
    }
    text.push_str(if at_rest {
        "# exact: the SQL threads stood still at the instant of the backup (tokudb_backup_safe_slave)\n"
    } else {
        "# as of a moment before the instant of the backup: the SQL threads ran. Exact is what a server over the \
         backup has: its GTIDs and the tables of its replication\n"
    });
    text
}

fn unknown(error: &Error) -> String {
    format!("# unknown: the server did not tell what it replicates: {}\n", one_line(&error.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_are_the_known_ones() {
        let channel = Channel {
            name: "c1".to_owned(),
            host: "h".to_owned(),
            user: "u".to_owned(),
            port: "3306".to_owned(),
            source_log: "bl.000002".to_owned(),
            position: "444".to_owned(),
            relay_log: "rl.000009".to_owned(),
            gtid: "0-1-7".to_owned(),
            by_gtid: true,
            runs: false,
        };
        let text = info(std::slice::from_ref(&channel), true);
        let mut lines = text.lines();
        assert_eq!(
            lines.next().unwrap(),
            "host: h, user: u, port: 3306, master log file: bl.000002, relay log file: rl.000009, exec master log \
             pos: 444, executed gtid set: 0-1-7, channel name: c1"
        );
        assert!(lines.next().unwrap().contains("'c1' asks its source by GTIDs"));
        assert!(lines.all(|line| line.starts_with("# exact")));
        assert!(info(std::slice::from_ref(&channel), false).contains("\n# as of a moment before"));
        // Nobody writes a line of his own by the name of a user.
        let forged = Channel { user: "u\nhost: h2, user: \u{7}".to_owned(), ..channel };
        let text = info(&[forged], true);
        assert_eq!(text.lines().filter(|line| line.starts_with("host: ")).count(), 1, "{text}");
        assert!(text.contains("user: u\\nhost: h2, user: \\u{7}, port"), "{text}");
    }
}
