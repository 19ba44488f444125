//! `backup_my.cnf`: settings that a server over the images needs, with paths relative to its data directory. Used as
//! it is (`--defaults-extra-file`) or copied into the my.cnf of the restored server.

use super::layout::{DATA_DIR_IMAGE, Layout};

/// Name of the file below the destination.
pub const FILE: &str = "backup_my.cnf";

/// Its content.
pub fn text(layout: &Layout) -> String {
    let mut text = format!(
        "# What a server needs to start on this backup, or on a copy of all of it: \n\
         #   mysqld --defaults-extra-file=.../{FILE} --datadir=.../{DATA_DIR_IMAGE}\n\
         # Paths are relative to the data directory.\n\
         [mysqld]\n"
    );
    for (name, value) in &layout.options {
        // The syntax of option files: a value in quotes and on one line, with backslashes.
        let quoted =
            value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\r', "\\r");
        text += &format!("{name} = \"{quoted}\"\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted() {
        let options = vec![("innodb_undo_directory".to_owned(), "../a \"b\"#c\nd".to_owned())];
        let text = text(&Layout { options, ..Layout::default() });
        assert!(text.ends_with("[mysqld]\ninnodb_undo_directory = \"../a \\\"b\\\"#c\\nd\"\n"), "{text}");
    }
}
