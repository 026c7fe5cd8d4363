//! When in the week a tenant's VMs may be started: the hours, and when the next of them begin.
//!
//! Decides for a time of the wall clock whether it is inside, by an offset to UTC that never changes: a week is
//! always as long, and no hour comes twice. Whose clock that is, and what counts as a start, is the arbiter's.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rate::span_words;

/// Windows of one tenant: as many as a week has hours are enough to say anything.
pub const WINDOWS_MAX: usize = 168;

const DAY_MINUTES: i64 = 24 * 60;
const WEEK_MINUTES: i64 = 7 * DAY_MINUTES;
const MINUTE_MS: i64 = 60_000;
/// The first of January 1970 was a Thursday.
const EPOCH_MINUTE: i64 = 3 * DAY_MINUTES;
/// Farthest from UTC that anybody's clocks are.
const OFFSET_MINUTES_MAX: i16 = 14 * 60;

/// When a tenant's VMs may be started, or given a larger size. What runs goes on when it is over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartWindows {
    /// How far the clock by which they are told is ahead of UTC; left out: not at all.
    #[serde(default, skip_serializing_if = "UtcOffset::is_utc")]
    pub utc_offset: UtcOffset,
    /// It is open while any of these is.
    pub open: Vec<Window>,
}

/// From one time of day to another, on some days.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The days on which it begins; left out: every day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<BTreeSet<Day>>,
    /// When it begins.
    pub from: TimeOfDay,
    /// When it is over; before `from`, it is over on the day after.
    pub to: TimeOfDay,
}

/// A day of the week.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Day {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

/// A time of day to the minute, `00:00` to `24:00`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = "^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$"))]
pub struct TimeOfDay(u16);

/// How far clocks are ahead of UTC, to the minute: `+02:00`, `-03:30`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = "^[+-](0[0-9]|1[0-3]):[0-5][0-9]$|^[+-]14:00$"))]
pub struct UtcOffset(i16);

/// That it is none of these times, and when it is next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Closed {
    /// When it is open.
    pub windows: StartWindows,
    /// What time it is, in milliseconds since 1970 by the wall clock of who says so.
    pub at_ms: u64,
    /// When it opens, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opens_ms: Option<u64>,
}

/// Why a text is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoTime {
    /// It is no time of day.
    #[error("{0:?} is no time of day: use hours and minutes from 00:00 to 24:00, such as 08:30")]
    OfDay(String),
    /// It is no offset.
    #[error("{0:?} is no offset to UTC: use +00:00 to +14:00 or -14:00, such as +02:00")]
    Offset(String),
}

/// What is wrong with one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EmptyWindow {
    /// It is over as it begins.
    #[error("it is over as it begins, at {0}: use 00:00 to 24:00 for a whole day")]
    NoTime(TimeOfDay),
    /// It begins at the end of a day.
    #[error("it begins at 24:00: use 00:00 of the day after")]
    FromMidnight,
    /// It begins on no day.
    #[error("it names no day: name some of mon, tue, wed, thu, fri, sat, sun, or leave days away")]
    NoDay,
}

impl StartWindows {
    /// Whether starts are allowed at a time of the wall clock.
    #[must_use]
    pub fn is_open(&self, wall_ms: u64) -> bool {
        let at = self.minute_of_week(wall_ms);
        self.spans().any(|(begins, minutes)| (at - begins).rem_euclid(WEEK_MINUTES) < minutes)
    }

    /// When they are allowed next: now, while they are; `None` only where there is no window at all.
    #[must_use]
    pub fn opens_ms(&self, wall_ms: u64) -> Option<u64> {
        if self.is_open(wall_ms) {
            return Some(wall_ms);
        }
        let at = self.minute_of_week(wall_ms);
        let wait = self.spans().map(|(begins, _)| (begins - at).rem_euclid(WEEK_MINUTES)).min()?;
        // Whole minutes of UTC are whole minutes everywhere.
        let minute_ms = wall_ms - wall_ms % MINUTE_MS.unsigned_abs();
        Some(minute_ms.saturating_add((wait * MINUTE_MS).unsigned_abs()))
    }

    /// That starts are not allowed at a time of the wall clock.
    #[must_use]
    pub fn closed(&self, wall_ms: u64) -> Option<Closed> {
        let opens_ms = self.opens_ms(wall_ms);
        let closed = || Closed { windows: self.clone(), at_ms: wall_ms, opens_ms };
        (!self.is_open(wall_ms)).then(closed)
    }

    /// A time of the wall clock as these clocks show it: `sat 22:15`.
    #[must_use]
    pub fn shown(&self, wall_ms: u64) -> String {
        let at = self.minute_of_week(wall_ms);
        let day = Day::ALL.into_iter().nth((at / DAY_MINUTES).unsigned_abs() as usize);
        let minute = u16::try_from(at % DAY_MINUTES).unwrap_or(0);
        format!("{} {}", day.unwrap_or(Day::Mon), TimeOfDay(minute))
    }

    /// The first window that makes no sense, by its number from 0.
    pub(super) fn validate(&self) -> Result<(), (usize, EmptyWindow)> {
        let mut all = self.open.iter().enumerate();
        all.try_for_each(|(at, window)| window.validate().map_err(|why| (at, why)))
    }

    /// Each time that a window begins, in minutes of the week, and how many minutes it is open.
    fn spans(&self) -> impl Iterator<Item = (i64, i64)> {
        self.open.iter().flat_map(|window| {
            let (from, to) = (i64::from(window.from.0), i64::from(window.to.0));
            let minutes = if to > from { to - from } else { to - from + DAY_MINUTES };
            let days = Day::ALL.into_iter().zip(0..);
            let days = days.filter(|(day, _)| window.is_on(*day));
            days.map(move |(_, number)| (number * DAY_MINUTES + from, minutes))
        })
    }

    fn minute_of_week(&self, wall_ms: u64) -> i64 {
        let utc = i64::try_from(wall_ms).unwrap_or(i64::MAX) / MINUTE_MS;
        (utc + EPOCH_MINUTE + i64::from(self.utc_offset.0)).rem_euclid(WEEK_MINUTES)
    }
}

impl Closed {
    /// One, for tests that every breach and denial is documented and survives the wire.
    ///
    /// # Panics
    /// Never: the times are valid.
    #[must_use]
    pub fn example() -> Self {
        let time = |text: &str| text.parse().expect("a valid time");
        let days = Some(BTreeSet::from([Day::Mon]));
        let open = vec![Window { days, from: time("08:00"), to: time("18:00") }];
        let windows = StartWindows { utc_offset: UtcOffset::default(), open };
        windows.closed(0).expect("1970 began on a Thursday")
    }
}

impl Window {
    fn is_on(&self, day: Day) -> bool {
        self.days.as_ref().is_none_or(|days| days.contains(&day))
    }

    fn validate(&self) -> Result<(), EmptyWindow> {
        if self.days.as_ref().is_some_and(BTreeSet::is_empty) {
            return Err(EmptyWindow::NoDay);
        }
        if i64::from(self.from.0) == DAY_MINUTES {
            return Err(EmptyWindow::FromMidnight);
        }
        if self.from == self.to {
            return Err(EmptyWindow::NoTime(self.from));
        }
        Ok(())
    }
}

impl Day {
    /// From Monday on.
    pub const ALL: [Day; 7] =
        [Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri, Day::Sat, Day::Sun];
}

impl UtcOffset {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    fn is_utc(&self) -> bool {
        self.0 == 0
    }
}

/// The minutes of `HH:MM`, two digits each.
fn minutes_of(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |digits: &str| {
        let are_digits = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u16>().ok().filter(|_| are_digits)
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (minutes < 60).then_some(hours * 60 + minutes)
}

impl FromStr for TimeOfDay {
    type Err = NoTime;

    fn from_str(text: &str) -> Result<Self, NoTime> {
        let is_of_day = |minutes: &u16| i64::from(*minutes) <= DAY_MINUTES;
        let minutes = minutes_of(text).filter(is_of_day);
        minutes.map(Self).ok_or_else(|| NoTime::OfDay(text.to_owned()))
    }
}

impl FromStr for UtcOffset {
    type Err = NoTime;

    fn from_str(text: &str) -> Result<Self, NoTime> {
        let signed = |sign: char, by: i16| {
            let minutes = i16::try_from(minutes_of(text.strip_prefix(sign)?)?).ok()?;
            (minutes <= OFFSET_MINUTES_MAX).then_some(Self(minutes * by))
        };
        let offset = signed('+', 1).or_else(|| signed('-', -1));
        offset.ok_or_else(|| NoTime::Offset(text.to_owned()))
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = NoTime;

    fn try_from(text: String) -> Result<Self, NoTime> {
        text.parse()
    }
}

impl TryFrom<String> for UtcOffset {
    type Error = NoTime;

    fn try_from(text: String) -> Result<Self, NoTime> {
        text.parse()
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> Self {
        time.to_string()
    }
}

impl From<UtcOffset> for String {
    fn from(offset: UtcOffset) -> Self {
        offset.to_string()
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl fmt::Display for UtcOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, minutes) = (if self.0 < 0 { '-' } else { '+' }, self.0.unsigned_abs());
        write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Day::Mon => "mon",
            Day::Tue => "tue",
            Day::Wed => "wed",
            Day::Thu => "thu",
            Day::Fri => "fri",
            Day::Sat => "sat",
            Day::Sun => "sun",
        })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.days {
            Some(days) => write!(f, "{} ", days_words(days))?,
            None => f.write_str("every day ")?,
        }
        write!(f, "{}-{}", self.from, self.to)
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { windows, at_ms, opens_ms } = self;
        write!(
            f,
            "VMs are started, and enlarged, {windows}; it is {} there",
            windows.shown(*at_ms)
        )?;
        let Some(opens_ms) = opens_ms else { return Ok(()) };
        let (opens, wait_ms) = (windows.shown(*opens_ms), opens_ms.saturating_sub(*at_ms));
        write!(f, ", and the next window opens {opens}, in {}", span_words(wait_ms))
    }
}

impl fmt::Display for StartWindows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let windows: Vec<String> = self.open.iter().map(ToString::to_string).collect();
        write!(f, "{} (UTC", windows.join(", "))?;
        if !self.utc_offset.is_utc() {
            write!(f, "{}", self.utc_offset)?;
        }
        f.write_str(")")
    }
}

/// `mon-fri`, `mon,wed`, `sat,sun`.
fn days_words(days: &BTreeSet<Day>) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for at in (0..Day::ALL.len()).filter(|at| days.contains(&Day::ALL[*at])) {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == at => *last = at,
            _ => runs.push((at, at)),
        }
    }
    let words = |(first, last): (usize, usize)| match last - first {
        0 => Day::ALL[first].to_string(),
        1 => format!("{},{}", Day::ALL[first], Day::ALL[last]),
        _ => format!("{}-{}", Day::ALL[first], Day::ALL[last]),
    };
    runs.into_iter().map(words).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
