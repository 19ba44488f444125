//! The session's side of a running backup: state line, KILL, and the lock at the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokudb_backup_abi::common::Thd;

use super::state::StateLine;
use super::variables::Settings;
use super::{lifecycle, replica, status};
use crate::backup::Caller;
use crate::engine::error::{Error, Result};
use crate::engine::progress::{Snapshot, state_line};
use crate::server::replica::Replica;
use crate::server::{Hold, Server, ServerLock};

/// What [`crate::backup::run`] calls back, on the session's thread.
pub struct SessionCaller {
    server: &'static dyn Server,
    thd: Thd,
    settings: Settings,
    state: StateLine,
    // Before `replica`: SQL threads may have to wait for it.
    lock: Option<ServerLock>,
    replica: Option<Replica>,
    info: Arc<Mutex<Option<String>>>,
    lock_micros: Arc<AtomicU64>,
}

impl SessionCaller {
    /// The side of a session that runs with these settings.
    /// `lock_micros` receives how long the lock was held, `info` what the server replicates.
    pub fn new(
        server: &'static dyn Server,
        thd: Thd,
        state: StateLine,
        settings: Settings,
        lock_micros: Arc<AtomicU64>,
        info: Arc<Mutex<Option<String>>>,
    ) -> Self {
        SessionCaller { server, thd, settings, state, lock: None, replica: None, info, lock_micros }
    }
}

/// Why the backup must end now.
pub fn interrupted(server: &dyn Server, thd: Thd) -> Result<()> {
    if !lifecycle::installed() {
        return Err(Error::interrupted("the plugin is being uninstalled"));
    }
    match server.interruption(thd) {
        Some(why) => Err(Error::interrupted(why)),
        None => Ok(()),
    }
}

impl Caller for SessionCaller {
    fn poll(&mut self, progress: &Snapshot) -> Result<()> {
        interrupted(self.server, self.thd)?;
        self.state.show(&state_line(progress));
        self.state.show_part(progress.bytes_done, progress.bytes_total);
        Ok(())
    }

    fn before_last_pass(&mut self) -> Result<()> {
        let (server, thd, state) = (self.server, self.thd, &mut self.state);
        let mut poll = || {
            state.show("backup: looking after the replica's SQL threads");
            interrupted(server, thd)
        };
        // Before anything is held off: a SQL thread that waits for that cannot be stopped.
        let (replica, info) = replica::look(server, thd, self.settings.safe_slave, &mut poll)?;
        self.replica = Some(replica);
        *self.info.lock().unwrap_or_else(PoisonError::into_inner) = info;
        let Some(what) = self.settings.lock.on(self.server.host()) else { return Ok(()) };
        let (server, thd, state) = (self.server, self.thd, &mut self.state);
        let text = match what {
            Hold::Ddl => "backup: waiting until no DDL runs",
            Hold::Everything => "backup: waiting until the server is at rest",
        };
        let mut poll = || {
            state.show(text);
            interrupted(server, thd)
        };
        server.can_hold(thd, what)?;
        self.lock = Some(server.hold(thd, what, self.settings.lock_timeout, &mut poll)?);
        Ok(())
    }

    fn after_stop_capture(&mut self) {
        if let Some(lock) = self.lock.take() {
            let micros = u64::try_from(lock.held_for().as_micros()).unwrap_or(u64::MAX);
            drop(lock);
            self.lock_micros.store(micros, Ordering::Release);
            status::lock_held(micros);
        }
        self.replica = None;
    }
}
