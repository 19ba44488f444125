//! Times in JSON: an instant as RFC 3339 in UTC, a file's mtime as seconds and nanoseconds.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An instant, since the epoch, to the microsecond: "2026-08-01T12:34:56.123456Z".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Time(pub Duration);

const DAY: u64 = 86_400;
/// From 0000-03-01 to 1970-01-01 in the Gregorian calendar.
const DAYS_BEFORE_EPOCH: u64 = 719_468;
/// Days of 400 years.
const ERA: u64 = 146_097;

/// Year, month, day of a day since the epoch. Years begin in March here, so the leap day is a year's last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + DAYS_BEFORE_EPOCH;
    let (era, day) = (days / ERA, days % ERA);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

/// The other way round; the parts must be a date from 1970 on.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let (era, year) = (year / 400, year % 400);
    let day = (153 * month + 2) / 5 + day.checked_sub(1)?;
    (era * ERA + year * 365 + year / 4 - year / 100 + day).checked_sub(DAYS_BEFORE_EPOCH)
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (year, month, day) = date(seconds / DAY);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let micros = self.0.subsec_micros();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

impl From<Time> for String {
    fn from(time: Time) -> String {
        time.to_string()
    }
}

impl FromStr for Time {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
        let parse = || {
            let day = days(number(0, 4)?, number(5, 7)?, number(8, 10)?)?;
            let seconds = day * DAY + number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
            Some(Time(Duration::from_secs(seconds) + Duration::from_micros(number(20, 26)?)))
        };
        // One spelling only: what does not come out as it went in is no date, or written differently.
        parse().filter(|time| time.to_string() == text).ok_or_else(|| format!("'{text}' is not a time"))
    }
}

impl TryFrom<String> for Time {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A file's time: seconds since the epoch (negative before it) and nanoseconds after them, "1700000000.000000001".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mtime {
    /// `st_mtime`.
    pub seconds: i64,
    /// `st_mtime_nsec`, below 1,000,000,000.
    pub nanoseconds: u32,
}

impl From<Mtime> for String {
    fn from(time: Mtime) -> String {
        format!("{}.{:09}", time.seconds, time.nanoseconds)
    }
}

impl TryFrom<String> for Mtime {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let parse = || {
            let (seconds, nanoseconds) = text.split_once('.')?;
            let time = Mtime { seconds: seconds.parse().ok()?, nanoseconds: nanoseconds.parse().ok()? };
            (time.nanoseconds < 1_000_000_000 && String::from(time) == text).then_some(time)
        };
        parse().ok_or_else(|| format!("'{text}' is not a file's time"))
    }
}
