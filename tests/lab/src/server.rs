//! One running server: created or put over an existing data directory, started, stopped, killed, connected to.

use crate::client::{Conn, ConnOptions, SqlError};
use crate::installation::{Installation, Start};
use crate::process::{kill, signal, spawn_bound, wait_until};
use crate::scratch::Scratch;
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for a server to come up (crash recovery included) or to go down.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a server differs from its own defaults.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Further command line options, as `--log-bin=/path/bl`.
    pub args: Vec<String>,
    /// Further options with which the data directory is made.
    pub initial: Vec<String>,
    /// A library to preload into the server (`LD_PRELOAD`).
    pub preload: Option<PathBuf>,
    /// The option file that it reads; none without.
    pub defaults: Option<PathBuf>,
    /// A copy of the server's program, changed, to be run in its place.
    pub program: Option<PathBuf>,
    /// A program that gets the whole command line and starts the server, as mysqld_safe does. It passes SIGTERM on,
    /// and the library is preloaded into it and all that it starts.
    pub wrapper: Option<PathBuf>,
    /// Libraries that INSTALL PLUGIN shall find beside the server's own plugins, under their file names.
    pub plugins: Vec<PathBuf>,
    /// Variables of the server's environment.
    pub env: Vec<(String, String)>,
    /// The number of the user that the server runs as; root without. It must own what the server writes.
    pub user: Option<u32>,
}

/// A server in a scratch directory. Dropping it kills the process; the data directory stays.
#[derive(Debug)]
pub struct Server {
    /// What it runs.
    pub installation: Installation,
    /// How it is started; a change counts from the next [`Server::start`].
    pub options: Options,
    home: PathBuf,
    data: PathBuf,
    // The path of a socket must be shorter than 107 characters, so it does not lie in `home`.
    run: Scratch,
    child: Option<Child>,
}

impl Server {
    /// A new server of the named installation, its fresh data directory in `home/data`.
    ///
    /// # Errors
    /// When the installation is missing or the data directory cannot be made.
    pub fn create(name: &str, home: &Path, options: Options) -> Result<Server> {
        let server = Self::over(name, home, &home.join("data"), options)?;
        let initial = &server.options.initial;
        server.installation.initialise(&server.data, &server.tmp(), &server.error_log(), initial)?;
        Ok(server)
    }

    /// A server over a data directory that exists already, such as a copy of a backup. What the server itself needs
    /// beside the data (error log, plugin folder, temporary files) goes to `home`.
    ///
    /// # Errors
    /// When the installation is missing or `home` cannot be made.
    pub fn over(name: &str, home: &Path, data: &Path, options: Options) -> Result<Server> {
        if home.starts_with("/dev/shm") || data.starts_with("/dev/shm") {
            bail!(
                "a server's data must not lie in /dev/shm: MariaDB writes its redo log there without a system call"
            );
        }
        let installation = Installation::find(name)?;
        let run = Scratch::below(&std::env::temp_dir(), "lab")?;
        let (home, data) = (std::path::absolute(home)?, std::path::absolute(data)?);
        let server = Server { installation, options, home, data, run, child: None };
        let tmp = server.tmp();
        fs::create_dir_all(&tmp).with_context(|| format!("cannot create {}", tmp.display()))?;
        Ok(server)
    }

    /// Starts the server and waits until it answers.
    ///
    /// # Errors
    /// When it runs already, dies before it answers (with the end of its error log), or takes too long.
    pub fn start(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("{} runs already", self.installation.name);
        }
        let plugins = self.fill_plugin_dir()?;
        let mut env = self.options.env.clone();
        let preload = self.options.preload.as_ref();
        let preload = preload.map(|library| ("LD_PRELOAD".to_owned(), library.display().to_string()));
        if self.options.wrapper.is_none() {
            env.extend(preload.clone());
        }
        let start = Start {
            env: &env,
            defaults: self.options.defaults.as_deref(),
            program: self.options.program.as_deref(),
        };
        let mut command = self.installation.server_command(start, &self.data, &self.tmp());
        if let Some(wrapper) = &self.options.wrapper {
            let mut outer = Command::new(wrapper);
            outer.arg(command.get_program()).args(command.get_args()).envs(preload);
            command = outer;
        }
        command
            .arg(format!("--user={}", self.options.user.unwrap_or(0)))
            .args(self.installation.running_options())
            .arg(format!("--plugin-dir={}", plugins.display()))
            .arg(format!("--socket={}", self.socket().display()))
            .arg(format!("--log-error={}", self.error_log().display()))
            .args(&self.options.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // After kill -9 the socket is still there; MySQL's lock of it, too.
        for leftover in ["s", "s.lock"] {
            let _ = fs::remove_file(self.run.path().join(leftover));
        }
        self.child = Some(spawn_bound(command).context("cannot start the server")?);
        self.wait_ready(Instant::now() + PATIENCE)
    }

    /// Stops the server cleanly (SIGTERM) and waits for its end.
    ///
    /// # Errors
    /// When it does not run, ends with another status than 0, or does not end in time (it is then killed).
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { bail!("{} does not run", self.installation.name) };
        let stopped =
            signal(&child, libc::SIGTERM).and_then(|()| wait_until(&mut child, Instant::now() + PATIENCE));
        match stopped {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => bail!("{} stopped with {status}\n{}", self.installation.name, self.log_tail()),
            Err(e) => {
                kill(&mut child);
                Err(e.context(format!("{} does not stop\n{}", self.installation.name, self.log_tail())))
            }
        }
    }

    /// Waits for a server that ends by itself, and returns how it ended.
    ///
    /// # Errors
    /// When it does not run or has not ended in time; it then still runs.
    pub fn wait(&mut self, patience: Duration) -> Result<std::process::ExitStatus> {
        let Some(child) = &mut self.child else { bail!("{} does not run", self.installation.name) };
        let status = wait_until(child, Instant::now() + patience)?;
        self.child = None;
        Ok(status)
    }

    /// Kills the server (SIGKILL), if it runs, and waits until it is gone.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            kill(&mut child);
        }
    }

    /// The server's process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// The process id, while the server runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Its resident memory, KiB; 0 while it does not run.
    pub fn memory(&self) -> u64 {
        let status = self.pid().and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok());
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse().unwrap_or_default()
    }

    /// A connection as root.
    ///
    /// # Errors
    /// As [`Conn::connect`].
    pub fn connect(&self) -> Result<Conn, SqlError> {
        Conn::connect(&self.conn_options())
    }

    /// How to connect as root, to be changed for another account or database.
    pub fn conn_options(&self) -> ConnOptions {
        ConnOptions::root(self.socket())
    }

    /// The server's socket.
    pub fn socket(&self) -> PathBuf {
        self.run.path().join("s")
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The directory of all that the server needs beside its data.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The error log; it goes on over restarts.
    pub fn error_log(&self) -> PathBuf {
        // MySQL appends .err to a name without a suffix.
        self.home.join("error.err")
    }

    /// The folder of temporary files.
    fn tmp(&self) -> PathBuf {
        self.home.join("tmp")
    }

    /// The end of the error log.
    pub fn log_tail(&self) -> String {
        tail(&self.error_log(), 30)
    }

    /// A plugin folder of this server's own: links to the server's plugins and to ours.
    fn fill_plugin_dir(&self) -> Result<PathBuf> {
        let dir = self.home.join("plugins");
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => fs::create_dir(&dir)?,
        }
        for (name, path) in self.installation.plugins()? {
            symlink(path, dir.join(name))?;
        }
        for library in &self.options.plugins {
            let name =
                library.file_name().with_context(|| format!("{} has no file name", library.display()))?;
            symlink(std::path::absolute(library)?, dir.join(name))
                .with_context(|| format!("cannot link {} into {}", library.display(), dir.display()))?;
        }
        Ok(dir)
    }

    fn wait_ready(&mut self, deadline: Instant) -> Result<()> {
        let mut options = self.conn_options();
        loop {
            options.connect_timeout = Duration::from_secs(10);
            let error = match Conn::connect(&options) {
                Ok(_) => return Ok(()),
                Err(e) => e,
            };
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().transpose()) {
                self.child = None;
                bail!("{} died at its start: {}\n{}", self.installation.name, status?, self.log_tail());
            }
            if Instant::now() > deadline {
                self.kill9();
                bail!("{} does not answer ({error})\n{}", self.installation.name, self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// The last lines of a file, for an error message.
pub fn tail(path: &Path, lines: usize) -> String {
    let Ok(bytes) = fs::read(path) else { return format!("({} cannot be read)", path.display()) };
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    let last = all.get(all.len().saturating_sub(lines)..).unwrap_or_default();
    format!("the end of {}:\n{}", path.display(), last.join("\n"))
}
