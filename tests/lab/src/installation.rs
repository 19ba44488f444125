//! The servers that `cargo xtask servers` fetched: where they are, how one initialises and starts them.

use crate::scratch::workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The servers that everything is proved on.
pub const DEFAULT: [&str; 5] = ["mysql-5.6.24", "mysql-9.7", "mariadb-10.5", "mariadb-10.11", "mariadb-11.8"];

/// MariaDB 10.5 in its own tree, on glibc 2.31, where only a portable library loads.
pub const OWN_GLIBC: &str = "mariadb-10.5-own-glibc";

/// Which of the two families a server is of, and how it is put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// MySQL 5.6 from npm: brings a ready data directory, runs on the machine's own libraries.
    MySql56,
    /// A later MySQL from Debian, in its own tree.
    MySql,
    /// MariaDB from Debian, in its own tree.
    MariaDb,
    /// MariaDB from Debian, on the machine's own libraries.
    MariaDbOnHost,
}

/// A fetched server.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Its name, as `mysql-9.7`.
    pub name: String,
    /// How it is put together.
    pub kind: Kind,
    /// Its directory below `target/servers`.
    pub dir: PathBuf,
    /// The script there that runs a command where the server's libraries are.
    enter: &'static str,
}

/// How one start of a server differs from others in what precedes its options.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start<'a> {
    /// Variables of the server's environment.
    pub env: &'a [(String, String)],
    /// The only option file that it reads; none without.
    pub defaults: Option<&'a Path>,
    /// A program in place of the server's own, as the server's tree shows it.
    pub program: Option<&'a Path>,
}

impl Installation {
    /// Finds a fetched server by its name.
    ///
    /// # Errors
    /// An unknown name, or a server that is not there yet.
    pub fn find(name: &str) -> Result<Installation> {
        let kind = match name {
            "mysql-5.6.24" => Kind::MySql56,
            "mysql-9.7" => Kind::MySql,
            "mariadb-10.11" | "mariadb-10.11-engines" | "mariadb-11.8" | OWN_GLIBC => Kind::MariaDb,
            "mariadb-10.5" => Kind::MariaDbOnHost,
            _ => bail!("there is no server `{name}`"),
        };
        // The rule is xtask's, too: one place whatever CARGO_TARGET_DIR says, shared by checkouts on request.
        let servers = std::env::var_os("TOKUDB_BACKUP_SERVERS")
            .filter(|v| !v.is_empty())
            .map_or_else(|| workspace().join("target").join("servers"), PathBuf::from);
        let (place, enter) = if name == OWN_GLIBC { ("mariadb-10.5", "enter-tree") } else { (name, "enter") };
        let dir = servers.join(place);
        if !dir.join("finished").is_file() {
            bail!("{} is not there: run `cargo xtask servers {place}` first", dir.display());
        }
        Ok(Installation { name: name.into(), kind, dir, enter })
    }

    /// It is a MariaDB server.
    pub fn is_mariadb(&self) -> bool {
        matches!(self.kind, Kind::MariaDb | Kind::MariaDbOnHost)
    }

    /// A path in the server's tree as the server sees it.
    fn seen(&self, inside: &str) -> PathBuf {
        match self.kind {
            Kind::MySql56 | Kind::MariaDbOnHost => self.dir.join("root").join(inside),
            Kind::MySql | Kind::MariaDb => Path::new("/").join(inside),
        }
    }

    /// The root of the server's tree, as this machine sees it.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// The server's program, as this machine sees it.
    pub fn program(&self) -> PathBuf {
        self.dir.join("root").join(self.program_inside())
    }

    fn program_inside(&self) -> &'static str {
        match self.kind {
            Kind::MySql56 => "mysqld",
            Kind::MySql => "usr/sbin/mysqld",
            Kind::MariaDb | Kind::MariaDbOnHost => "usr/sbin/mariadbd",
        }
    }

    /// The server's own plugins: file name and the path that the server finds it under.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn plugins(&self) -> Result<Vec<(String, PathBuf)>> {
        let inside = "usr/lib/mysql/plugin";
        let dir = self.dir.join("root").join(inside);
        if !dir.is_dir() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let path = self.seen(inside).join(&name);
            found.push((name, path));
        }
        Ok(found)
    }

    /// The server's command line so far: run by `enter` (same process id).
    ///
    /// `tmp` is the server's folder for temporary files, its own: a server that starts removes every temporary table
    /// that it finds there, also those of a server that runs.
    pub fn server_command(&self, start: Start<'_>, data: &Path, tmp: &Path) -> Command {
        let mut command = Command::new(self.dir.join(self.enter));
        // `env` sets the variables for the server alone, not for the programs that lead to it.
        command.arg("env").args(start.env.iter().map(|(name, value)| format!("{name}={value}")));
        command.arg(start.program.map_or_else(|| self.seen(self.program_inside()), Path::to_path_buf));
        // First, as the servers want it.
        command.arg(match start.defaults {
            Some(file) => format!("--defaults-file={}", file.display()),
            None => "--no-defaults".into(),
        });
        command.arg(format!("--datadir={}", data.display()));
        command.arg(format!("--tmpdir={}", tmp.display()));
        match self.kind {
            Kind::MySql56 => {
                command.arg(format!("--basedir={}", self.seen("").display()));
                command.arg(format!("--lc-messages-dir={}", self.seen("share").display()));
            }
            // Debian's default for the folder of LOAD DATA and INTO OUTFILE exists on an installed system only.
            Kind::MySql => {
                command.arg("--secure-file-priv=");
            }
            Kind::MariaDb => {}
            Kind::MariaDbOnHost => {
                command.arg(format!("--basedir={}", self.seen("usr").display()));
                command.arg(format!("--lc-messages-dir={}", self.seen("usr/share/mysql").display()));
            }
        }
        command
    }

    /// Options that a server takes when it runs, but not while it initialises its data directory.
    pub fn running_options(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::MySql => &["--skip-networking", "--mysqlx=OFF"],
            Kind::MySql56 | Kind::MariaDb | Kind::MariaDbOnHost => &["--skip-networking"],
        }
    }

    /// What InnoDB's own tool says of the checksums of these files' pages; nothing where the server brings no tool.
    ///
    /// # Errors
    /// When the tool cannot be run.
    pub fn innochecksum(&self, files: &[PathBuf]) -> Result<Option<Vec<String>>> {
        let root = self.dir.join("root");
        let tool = root.join("usr/bin/innochecksum");
        if !tool.is_file() {
            return Ok(None);
        }
        let mut said = Vec::new();
        // Of the system tablespace all but the doublewrite buffer, where MariaDB leaves copies of pages of any size.
        let whole: &[&str] = &[""];
        let around: &[&str] = &["--end-page=63", "--start-page=192"];
        let parts = files.iter().flat_map(|file| {
            let parts = if file.ends_with("ibdata1") { around } else { whole };
            parts.iter().map(move |part| (file, *part))
        });
        for (file, part) in parts {
            let mut command = match self.kind {
                Kind::MySql56 | Kind::MariaDbOnHost => Command::new(self.dir.join(self.enter)),
                // Its own loader and libraries are enough: no mount namespace for each file.
                Kind::MySql | Kind::MariaDb => {
                    let libraries = root.join("usr/lib/x86_64-linux-gnu");
                    let mut loader = Command::new(libraries.join("ld-linux-x86-64.so.2"));
                    loader.arg("--library-path").arg(libraries);
                    loader
                }
            };
            command.arg(&tool).args(Some(part).filter(|part| !part.is_empty())).arg(file);
            let output = command.stdin(Stdio::null()).output()?;
            if !output.status.success() {
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&text);
                said.push(format!("innochecksum {}: {}\n{text}", file.display(), output.status));
            }
        }
        Ok(Some(said))
    }

    /// Makes a fresh data directory, in which root has no password; `log` gets the server's messages, `tmp` its
    /// temporary files.
    ///
    /// # Errors
    /// When the server cannot do it: with the end of its messages.
    pub fn initialise(&self, data: &Path, tmp: &Path, log: &Path, options: &[String]) -> Result<()> {
        let with = |how: &str| [&[how.to_owned()], options].concat();
        match self.kind {
            Kind::MySql56 => self.copy_ready_data(data),
            Kind::MySql => self.run_once(&with("--initialize-insecure"), data, tmp, log, None),
            Kind::MariaDb | Kind::MariaDbOnHost => {
                fs::create_dir_all(data.join("mysql"))?;
                let tables = self.system_tables()?;
                self.run_once(&with("--bootstrap"), data, tmp, log, Some(tables.as_bytes()))
            }
        }
        .with_context(|| format!("cannot initialise a data directory of {} in {}", self.name, data.display()))
    }

    fn copy_ready_data(&self, data: &Path) -> Result<()> {
        copy_tree(&self.dir.join("root/data/mysql"), data)?;
        // Each server makes its own identity.
        match fs::remove_file(data.join("auto.cnf")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }

    fn run_once(
        &self,
        options: &[String],
        data: &Path,
        tmp: &Path,
        log: &Path,
        input: Option<&[u8]>,
    ) -> Result<()> {
        let mut command = self.server_command(Start::default(), data, tmp);
        command.arg("--user=root").args(options).arg(format!("--log-error={}", log.display()));
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = crate::process::spawn_bound(command)?;
        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
            // A server that dies early closes the pipe; its exit and messages say more than EPIPE.
            let _ = pipe.write_all(input);
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{}\n{said}{}", output.status, crate::server::tail(log, 20));
        }
        Ok(())
    }

    /// What mariadb-install-db feeds to `mariadbd --bootstrap`.
    fn system_tables(&self) -> Result<String> {
        let share = ["usr/share/mariadb", "usr/share/mysql"].map(|inside| self.dir.join("root").join(inside));
        let find = |name: &str| {
            let (old, new) = (format!("mysql_{name}.sql"), format!("mariadb_{name}.sql"));
            let plain = format!("{name}.sql");
            share
                .iter()
                .flat_map(|dir| [&plain, &old, &new].map(|file| dir.join(file)))
                .find(|path| path.is_file())
        };
        // root without password, by the ordinary way of logging in.
        let mut sql = String::from("USE mysql;\nSET @auth_root_socket=NULL;\n");
        let parts = ["system_tables", "performance_tables", "system_tables_data", "fill_help_tables"];
        for name in parts.into_iter().chain(["maria_add_gis_sp_bootstrap", "sys_schema"]) {
            let path = match find(name) {
                Some(path) => path,
                // It came with 10.6.
                None if name == "sys_schema" => continue,
                None => bail!("{} brings no {name}.sql", self.name),
            };
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            // Accounts for the machine's own name are for servers with a network.
            let lines = text.lines().filter(|line| !line.contains("@current_hostname"));
            lines.for_each(|line| {
                sql.push_str(line);
                sql.push('\n');
            });
        }
        Ok(sql)
    }
}

/// Copies a directory as `cp --archive` does.
///
/// # Errors
/// When `cp` fails.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let status =
        Command::new("cp").args(["--archive", "--no-target-directory"]).arg(from).arg(to).status()?;
    if !status.success() {
        bail!("cannot copy {} to {}: cp {status}", from.display(), to.display());
    }
    Ok(())
}
