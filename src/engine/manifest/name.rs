//! Names in JSON, which knows nothing but UTF-8.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A path, as an object with the key `path`, or `path_hex` when it is not UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "NameText", into = "NameText")]
pub struct Name(pub PathBuf);

#[derive(Serialize, Deserialize)]
struct NameText {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
}

impl From<Name> for NameText {
    fn from(name: Name) -> Self {
        let (path, path_hex) = encode(name.0.as_os_str().as_bytes());
        NameText { path, path_hex }
    }
}

impl TryFrom<NameText> for Name {
    type Error = String;
    fn try_from(text: NameText) -> Result<Self, String> {
        decode(text.path, text.path_hex).map(Name)
    }
}

/// A name as text, or else as hexadecimal digits.
pub fn encode(name: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(name) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(name.iter().map(|byte| format!("{byte:02x}")).collect())),
    }
}

/// The name of which one form or the other is given.
pub fn decode(text: Option<String>, hex: Option<String>) -> Result<PathBuf, String> {
    match (text, hex) {
        (Some(text), None) => Ok(PathBuf::from(text)),
        (None, Some(hex)) => {
            let name: Option<Vec<u8>> = hex.as_bytes().chunks(2).map(byte).collect();
            let name = name.ok_or_else(|| format!("'{hex}' is not hexadecimal"))?;
            Ok(PathBuf::from(OsString::from_vec(name)))
        }
        (None, None) => Err("a name is missing".to_owned()),
        (Some(text), Some(_)) => Err(format!("'{text}' is named twice")),
    }
}

fn byte(digits: &[u8]) -> Option<u8> {
    let [high, low] = digits else { return None };
    let value = |digit: u8| char::from(digit).to_digit(16);
    u8::try_from(value(*high)? * 16 + value(*low)?).ok()
}
