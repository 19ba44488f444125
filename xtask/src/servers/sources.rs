//! The machine's own apt sources: which mirror to ask, and which keyring to believe.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// One source of binary packages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The mirror.
    pub uri: String,
    /// The suite, as `bookworm` or `bookworm-security`.
    pub suite: String,
    /// The keyring's path or the key's fingerprint, if the source names one.
    pub signed_by: Option<String>,
}

/// The Debian mirrors of this machine.
#[derive(Debug, PartialEq, Eq)]
pub struct Mirrors {
    /// Of the releases.
    pub main: Source,
    /// Of their security updates, where there is one.
    pub security: Option<Source>,
}

/// Debian's keyring, when a source does not name one.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

impl Source {
    /// The keyring that makes the source believed, or nothing where apt's trusted keys must do.
    pub fn keyring(&self) -> Option<PathBuf> {
        let named = self.signed_by.as_deref().filter(|key| key.starts_with('/'));
        named.map(PathBuf::from).into_iter().chain([PathBuf::from(KEYRING)]).find(|path| path.is_file())
    }
}

/// Reads the sources in `/etc/apt`.
pub fn mirrors() -> Result<Mirrors> {
    let etc = Path::new("/etc/apt");
    let mut sources = Vec::new();
    let mut files = vec![etc.join("sources.list")];
    let parts = etc.join("sources.list.d");
    if let Ok(entries) = fs::read_dir(&parts) {
        let mut found = entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
        found.sort();
        files.extend(found);
    }
    for file in files {
        let read = || fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()));
        match file.extension().and_then(|e| e.to_str()) {
            Some("list") if file.exists() => sources.extend(one_line(&read()?)),
            Some("sources") => sources.extend(deb822(&read()?)),
            _ => {}
        }
    }
    choose(&sources)
}

/// Which of the sources are Debian's: recognised by the last part of the mirror's path, which is the same everywhere.
fn choose(sources: &[Source]) -> Result<Mirrors> {
    let named = |name: &str| {
        sources.iter().find(|s| s.uri.trim_end_matches('/').rsplit('/').next() == Some(name)).cloned()
    };
    let security = named("debian-security").or_else(|| {
        let ours = |s: &&Source| s.suite.ends_with("-security") || s.suite.ends_with("/updates");
        sources.iter().find(ours).cloned()
    });
    let Some(main) = named("debian") else {
        bail!(
            "no source in /etc/apt/sources.list and /etc/apt/sources.list.d is a Debian mirror (an address that ends \
             in /debian): the servers come from Debian, so add one there"
        );
    };
    Ok(Mirrors { main, security })
}

/// The classic form: `deb [options] URI SUITE COMPONENT...`, one a line.
fn one_line(text: &str) -> Vec<Source> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb").filter(|r| r.starts_with([' ', '\t', '['])) else {
            continue;
        };
        let mut rest = rest.trim_start();
        let mut signed_by = None;
        if let Some((options, after)) = rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            signed_by =
                options.split_whitespace().find_map(|o| o.strip_prefix("signed-by=")).map(String::from);
            rest = after;
        }
        let mut words = rest.split_whitespace();
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            found.push(Source { uri: uri.into(), suite: suite.into(), signed_by });
        }
    }
    found
}

/// The deb822 form: stanzas of `Field: value`, a line that starts with a blank going on with the field before.
fn deb822(text: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut stanza: Vec<(String, String)> = Vec::new();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    for line in lines.chain([""]) {
        if line.trim().is_empty() {
            found.extend(stanza_sources(&stanza));
            stanza.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.last_mut() {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((field, value)) = line.split_once(':') {
            stanza.push((field.trim().to_lowercase(), value.trim().into()));
        }
    }
    found
}

/// One stanza stands for every pair of its addresses and suites.
fn stanza_sources(stanza: &[(String, String)]) -> Vec<Source> {
    let field = |name: &str| stanza.iter().find(|(f, _)| f == name).map_or("", |(_, value)| value);
    let binary = field("types").split_whitespace().any(|t| t == "deb");
    if !binary || matches!(field("enabled"), "no" | "false" | "0") {
        return Vec::new();
    }
    let signed_by = Some(field("signed-by")).filter(|key| !key.is_empty()).map(String::from);
    let mut found = Vec::new();
    for uri in field("uris").split_whitespace() {
        for suite in field("suites").split_whitespace() {
            found.push(Source { uri: uri.into(), suite: suite.into(), signed_by: signed_by.clone() });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uri: &str, suite: &str, key: Option<&str>) -> Source {
        Source { uri: uri.into(), suite: suite.into(), signed_by: key.map(Into::into) }
    }

    #[test]
    fn one_line_form() {
        let text = "# a comment\n\
            deb http://m.example/debian bookworm main contrib # main\n\
            deb-src http://m.example/debian bookworm main\n\
            deb [arch=amd64 signed-by=/k.gpg] https://m.example/debian-security bookworm-security main\n\
            #deb http://off.example/debian sid main\n";
        assert_eq!(
            one_line(text),
            [
                source("http://m.example/debian", "bookworm", None),
                source("https://m.example/debian-security", "bookworm-security", Some("/k.gpg")),
            ]
        );
    }

    #[test]
    fn deb822_form() {
        let text = "Types: deb deb-src\nURIs: http://m.example/debian\nSuites: a\n b\nComponents: main\n\
            # a comment\nSigned-By: /k.gpg\n\nTypes: deb-src\nURIs: http://src.example/debian\nSuites: a\n\n\
            Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: a\n";
        assert_eq!(
            deb822(text),
            [
                source("http://m.example/debian", "a", Some("/k.gpg")),
                source("http://m.example/debian", "b", Some("/k.gpg")),
            ]
        );
    }

    #[test]
    fn mirrors_are_recognised() {
        let other = source("https://tools.example/apt", "stable", None);
        let main = source("http://m.example/debian/", "trixie", None);
        let security = source("http://s.example/debian-security", "trixie-security", None);
        let chosen = choose(&[other.clone(), security.clone(), main.clone()]).unwrap();
        assert_eq!(chosen, Mirrors { main: main.clone(), security: Some(security) });
        let chosen = choose(std::slice::from_ref(&main)).unwrap();
        assert_eq!(chosen, Mirrors { main, security: None });
        assert!(choose(&[other]).is_err());
    }
}
