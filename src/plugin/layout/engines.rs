//! Directories that engines were told by their variables, and what a server over the images must be told.

use std::path::{Path, PathBuf};

use super::{Layout, MASTER_INFO, RELAY_LOG_INFO, from_bytes, names_in, really, split};
use crate::backup::{Choice, Members};
use crate::engine::error::Result;
use crate::server::Host;
use crate::server::files::{ServerFiles, engine_number, engine_variable, server_number};

/// Variables that name a directory, and how the names in it that are the engine's begin, or after a star end; none: all.
const DIRECTORIES: [(&str, &[&str]); 9] = [
    ("innodb_log_group_home_dir", &["ib_logfile", "#innodb_redo"]),
    ("innodb_undo_directory", &["undo", "*.ibu"]),
    ("innodb_doublewrite_dir", &["#ib_"]),
    ("aria_log_dir_path", &["aria_log"]),
    ("rocksdb_datadir", &[]),
    ("rocksdb_wal_dir", &[]),
    ("tokudb_data_dir", &[]),
    ("tokudb_log_dir", &[]),
    ("tokudb_tmp_dir", &["tokudb"]),
];
const DATA_HOME: &str = "innodb_data_home_dir";
const DATA_FILES: &str = "innodb_data_file_path";

/// Numbers without which InnoDB or the server would not open the files.
const NUMBERS: [&str; 4] =
    ["innodb_page_size", "innodb_undo_tablespaces", "innodb_log_files_in_group", "innodb_log_file_size"];

impl Layout {
    pub(super) fn add_engines(&mut self, host: &Host) -> Result<()> {
        for (variable, names) in DIRECTORIES {
            let Some(value) = engine_variable(host, variable) else { continue };
            let directory = self.data_dir().join(from_bytes(&value));
            if names.is_empty() {
                if let Ok(path) = directory.canonicalize() {
                    self.add(variable, path, Members::All);
                }
            } else {
                self.add_chosen(variable, &directory, choices(names))?;
            }
        }
        let home = self.data_home(host);
        // What lies there unless a variable of its own says where.
        self.add_chosen(DATA_HOME, &home, choices(&["undo", "*.ibu", "#ib_", "ib_buffer_pool"]))?;
        let tablespaces = engine_variable(host, DATA_FILES).unwrap_or_default();
        for name in names_in(&tablespaces) {
            let path = home.join(from_bytes(name));
            let Some((directory, name)) = split(&path) else { continue };
            let image = if directory == home { DATA_HOME } else { DATA_FILES };
            self.add_chosen(image, directory, vec![Choice::Name(name.to_vec())])?;
        }
        Ok(())
    }

    fn data_home(&self, host: &Host) -> PathBuf {
        self.data_dir().join(from_bytes(&engine_variable(host, DATA_HOME).unwrap_or_default()))
    }

    /// What a server over the images must be told: paths relative to its data directory, which is its working
    /// directory.
    pub(super) fn note_options(&mut self, host: &Host, files: &ServerFiles) -> Result<()> {
        let mut options = Vec::new();
        let mut note = |name: &str, value: String| options.push((name.to_owned(), value));
        for (variable, _) in DIRECTORIES {
            let Some(value) = engine_variable(host, variable) else { continue };
            let path = self.data_dir().join(from_bytes(&value));
            if path != self.data_dir()
                && let Some(image) = path.canonicalize().ok().and_then(|path| self.seen_from_data_dir(&path))
            {
                note(variable, image);
            }
        }
        let home = self.data_home(host);
        if let Some(value) = engine_variable(host, DATA_FILES) {
            let plain = names_in(&value).all(|name| !name.contains(&b'/'));
            if let (true, Some(image)) =
                (home != *self.data_dir(), home.canonicalize().ok().and_then(|p| self.seen_from_data_dir(&p)))
            {
                note(DATA_HOME, image);
            }
            note(DATA_FILES, if plain { text(&value) } else { self.moved_files(&home, &value) });
        }
        let logs = [
            ("log_bin", &files.log_bin, "."),
            ("relay_log", &files.relay_log, "."),
            ("log_bin_index", &files.log_bin_index, ""),
            ("relay_log_index", &files.relay_log_index, ""),
            (RELAY_LOG_INFO, &files.relay_log_info, ""),
            (MASTER_INFO, &files.master_info, ""),
        ];
        for (variable, path, end) in logs {
            // Logs are named by what their names begin with.
            let Some(mut path) = path.as_deref().and_then(really).map(PathBuf::into_os_string) else {
                continue;
            };
            path.push(end);
            let image = self.seen_from_data_dir(Path::new(&path));
            let is_default = |image: &String| image.starts_with("./") && variable.ends_with("_info_file");
            if let Some(image) = image.filter(|image| !is_default(image)) {
                note(variable, image.strip_suffix(end).unwrap_or(&image).to_owned());
            }
        }
        for variable in NUMBERS {
            if let Some(value) = engine_number(host, variable) {
                note(variable, value.to_string());
            }
        }
        for (symbol, variable) in [(c"lower_case_table_names", "lower_case_table_names")] {
            if let Some(value) = server_number(symbol) {
                note(variable, value.to_string());
            }
        }
        self.options = options;
        Ok(())
    }

    /// `innodb_data_file_path` with the places of the images; only names that hold a directory have moved.
    fn moved_files(&self, home: &Path, value: &[u8]) -> String {
        let entries = value.split(|&b| b == b';').filter(|entry| !entry.is_empty()).map(|entry| {
            let name = entry.split(|&b| b == b':').next().unwrap_or_default();
            let rest = text(entry.get(name.len()..).unwrap_or_default());
            let path = really(&home.join(from_bytes(name)));
            match path
                .as_deref()
                .and_then(|path| self.seen_from_data_dir(path))
                .filter(|_| name.contains(&b'/'))
            {
                Some(image) => image + &rest,
                None => text(name) + &rest,
            }
        });
        entries.collect::<Vec<_>>().join(";")
    }

    /// Where the image of a real path lies, seen from the image of the data directory.
    fn seen_from_data_dir(&self, path: &Path) -> Option<String> {
        let image = self.image_of(path)?;
        Some(match image.strip_prefix(super::DATA_DIR_IMAGE) {
            Ok(inside) => format!("./{}", inside.display()),
            Err(_) => format!("../{}", image.display()),
        })
    }
}

fn choices(patterns: &[&str]) -> Vec<Choice> {
    let choice = |pattern: &&str| match pattern.strip_prefix('*') {
        Some(ending) => Choice::Ending(ending.into()),
        None => Choice::Beginning((*pattern).into()),
    };
    patterns.iter().map(choice).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
