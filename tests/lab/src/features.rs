//! What a server can do, as far as the workload and the checks care.

use crate::client::{Conn, SqlError};
use std::collections::BTreeSet;

/// A server's abilities.
#[derive(Clone, Debug)]
pub struct Features {
    /// It is a MariaDB server.
    pub mariadb: bool,
    /// The first two numbers of its version.
    pub version: (u32, u32),
    /// The engines that tables can be made with.
    pub engines: BTreeSet<String>,
}

impl Features {
    /// Asks the server.
    ///
    /// # Errors
    /// What it answers.
    pub fn of(conn: &mut Conn) -> Result<Features, SqlError> {
        let version = conn.value("SELECT VERSION()")?.unwrap_or_default();
        let mut numbers = version.split(['.', '-']).map_while(|part| part.parse().ok());
        let engines = conn.query("SHOW ENGINES")?.texts();
        Ok(Features {
            mariadb: version.contains("MariaDB"),
            version: (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)),
            engines: engines
                .into_iter()
                .filter(|row| matches!(row[1].as_str(), "YES" | "DEFAULT"))
                .map(|row| row[0].clone())
                .collect(),
        })
    }

    /// The server can make tables of this engine.
    pub fn has(&self, engine: &str) -> bool {
        self.engines.contains(engine)
    }

    /// MySQL 8 and later: a crash within DDL is undone or finished, for InnoDB. No backup holds DDL off there (P27).
    pub fn atomic_ddl(&self) -> bool {
        !self.mariadb && self.version >= (8, 0)
    }

    /// Crash recovery gets renames of InnoDB's tables right that were over before the crash.
    pub fn renames_recover(&self) -> bool {
        self.mariadb || self.version >= (5, 7)
    }

    /// Tables of every engine can be partitioned (MySQL 8 and later: InnoDB's only).
    pub fn partitions_all(&self) -> bool {
        !self.atomic_ddl()
    }
}
