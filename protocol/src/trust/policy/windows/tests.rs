//! Windows at their edges: midnight, the end of the week, offsets; and against a naive model, minute by minute.

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Monday the fifth of January 2026, 00:00 UTC.
const MONDAY_MS: u64 = 1_767_571_200_000;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

fn windows(value: serde_json::Value) -> StartWindows {
    serde_json::from_value(value).unwrap()
}

fn office() -> StartWindows {
    windows(json!({ "open": [
        { "days": ["mon", "tue", "wed", "thu", "fri"], "from": "08:00", "to": "18:00" } ] }))
}

#[test]
fn a_window_is_open_from_its_first_minute_to_before_its_last() {
    let (office, at) = (office(), |ms: u64| MONDAY_MS + ms);
    assert!(!office.is_open(at(8 * HOUR_MS - 1)));
    assert!(office.is_open(at(8 * HOUR_MS)));
    assert!(office.is_open(at(18 * HOUR_MS - 1)));
    assert!(!office.is_open(at(18 * HOUR_MS)));
    assert!(office.is_open(at(4 * DAY_MS + 9 * HOUR_MS)), "a Friday");
    assert!(!office.is_open(at(5 * DAY_MS + 9 * HOUR_MS)), "a Saturday");
}

#[test]
fn the_next_window_is_told_over_the_end_of_the_week() {
    let office = office();
    let friday_evening = MONDAY_MS + 4 * DAY_MS + 18 * HOUR_MS;
    assert_eq!(office.opens_ms(friday_evening + 1), Some(MONDAY_MS + 7 * DAY_MS + 8 * HOUR_MS));
    assert_eq!(office.opens_ms(MONDAY_MS), Some(MONDAY_MS + 8 * HOUR_MS));
    let open = MONDAY_MS + 9 * HOUR_MS + 7;
    assert_eq!(office.opens_ms(open), Some(open), "it is open now");
    assert_eq!(office.shown(friday_evening), "fri 18:00");
    assert_eq!(StartWindows::default().opens_ms(0), None);
}

#[test]
fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
    let sunday = windows(json!({ "open": [{ "days": ["sun"], "from": "22:00", "to": "06:00" }] }));
    let sunday_evening = MONDAY_MS + 6 * DAY_MS + 22 * HOUR_MS;
    assert!(!sunday.is_open(sunday_evening - 1));
    assert!(sunday.is_open(sunday_evening));
    assert!(sunday.is_open(MONDAY_MS), "the week has begun anew");
    assert!(sunday.is_open(MONDAY_MS + 6 * HOUR_MS - 1));
    assert!(!sunday.is_open(MONDAY_MS + 6 * HOUR_MS));
    assert!(!sunday.is_open(MONDAY_MS + DAY_MS), "only after a Sunday");
    let until_midnight = windows(json!({ "open": [{ "from": "20:00", "to": "00:00" }] }));
    assert!(until_midnight.is_open(MONDAY_MS + DAY_MS - 1));
    assert!(!until_midnight.is_open(MONDAY_MS + DAY_MS));
    let always = windows(json!({ "open": [{ "from": "00:00", "to": "24:00" }] }));
    assert!((0..14).all(|half| always.is_open(MONDAY_MS + half * DAY_MS / 2)));
}

#[test]
fn an_offset_moves_days_as_well_as_hours() {
    let at = |offset: &str| {
        windows(json!({ "utc_offset": offset,
            "open": [{ "days": ["mon"], "from": "00:00", "to": "24:00" }] }))
    };
    let east = at("+02:00");
    assert!(east.is_open(MONDAY_MS - 2 * HOUR_MS), "it is Monday there already");
    assert!(!east.is_open(MONDAY_MS - 2 * HOUR_MS - 1));
    assert!(!east.is_open(MONDAY_MS + 22 * HOUR_MS));
    let west = at("-03:30");
    assert!(!west.is_open(MONDAY_MS + 3 * HOUR_MS));
    assert!(west.is_open(MONDAY_MS + 3 * HOUR_MS + HOUR_MS / 2));
    assert_eq!(west.shown(MONDAY_MS), "sun 20:30");
    // Long before there were clocks like ours, and long after: an answer, and no panic.
    for wall_ms in [0, u64::MAX] {
        assert!(west.opens_ms(wall_ms).is_some_and(|opens_ms| opens_ms >= wall_ms));
    }
}

#[test]
fn windows_read_as_they_are_written() {
    let text =
        r#"{"utc_offset":"-03:30","open":[{"days":["mon","sun"],"from":"22:00","to":"06:00"}]}"#;
    let read: StartWindows = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), text);
    let plain = r#"{"open":[{"from":"00:00","to":"24:00"}]}"#;
    let read: StartWindows = serde_json::from_str(plain).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), plain);
    let words = |days: serde_json::Value| {
        let one = json!({ "open": [{ "days": days, "from": "08:00", "to": "09:30" }] });
        windows(one).to_string()
    };
    assert_eq!(words(json!(["fri", "mon", "tue", "wed", "thu"])), "mon-fri 08:00-09:30 (UTC)");
    assert_eq!(words(json!(["sun", "mon", "tue"])), "mon,tue,sun 08:00-09:30 (UTC)");
    assert_eq!(
        windows(json!({ "utc_offset": "+05:45", "open": [{ "from": "01:00", "to": "02:00" }] }))
            .to_string(),
        "every day 01:00-02:00 (UTC+05:45)"
    );
}

#[test]
fn texts_that_are_no_times_are_refused_with_what_would_do() {
    for text in ["8:00", "24:01", "12:60", "-1:00", "+8:00", "noon", "", "12:00:00", "１２:00"] {
        assert_eq!(text.parse::<TimeOfDay>(), Err(NoTime::OfDay(text.into())), "{text}");
    }
    for text in ["02:00", "+14:01", "-15:00", "+2:00", "CET", "", "+02", "++2:00"] {
        assert_eq!(text.parse::<UtcOffset>(), Err(NoTime::Offset(text.into())), "{text}");
    }
    let wrong = json!({ "open": [{ "from": "08.00", "to": "18:00" }] });
    let error = serde_json::from_value::<StartWindows>(wrong).unwrap_err().to_string();
    assert!(error.contains("use hours and minutes from 00:00 to 24:00"), "{error}");
}

#[test]
fn windows_in_which_nothing_could_start_are_refused() {
    let fault = |one: serde_json::Value| windows(json!({ "open": [one] })).validate();
    let eight: TimeOfDay = "08:00".parse().unwrap();
    let empty = |why| Err((0, why));
    assert_eq!(fault(json!({ "from": "08:00", "to": "07:59" })), Ok(()));
    assert_eq!(fault(json!({ "from": "08:00", "to": "08:00" })), empty(EmptyWindow::NoTime(eight)));
    assert_eq!(fault(json!({ "from": "24:00", "to": "08:00" })), empty(EmptyWindow::FromMidnight));
    let no_day = json!({ "days": [], "from": "08:00", "to": "09:00" });
    assert_eq!(fault(no_day), empty(EmptyWindow::NoDay));
}

fn any_window() -> impl Strategy<Value = Window> {
    let days =
        prop::option::of(prop::collection::btree_set(prop::sample::select(&Day::ALL[..]), 1..7));
    (days, 0..1440u16, 0..=1440u16)
        .prop_map(|(days, from, to)| Window { days, from: TimeOfDay(from), to: TimeOfDay(to) })
        .prop_filter("it is some time", |window| window.validate().is_ok())
}

/// Whether the window is open in a minute of a week, by looking at each minute of it.
fn is_open_naively(window: &Window, minute: i64) -> bool {
    let (day, of_day) = (minute / DAY_MINUTES, minute % DAY_MINUTES);
    let is_on = |day: i64| window.is_on(Day::ALL[usize::try_from(day.rem_euclid(7)).unwrap()]);
    let (from, to) = (i64::from(window.from.0), i64::from(window.to.0));
    match from < to {
        true => is_on(day) && (from..to).contains(&of_day),
        false => (is_on(day) && of_day >= from) || (is_on(day - 1) && of_day < to),
    }
}

proptest! {
    #[test]
    fn any_windows_are_open_when_one_of_them_is_and_open_next_at_the_first(
        open in prop::collection::vec(any_window(), 1..4),
        offset in -840..=840i16,
        minute in 0..10_080i64,
    ) {
        let windows = StartWindows { utc_offset: UtcOffset(offset), open };
        let at_ms = |minute: i64| {
            let utc = minute - i64::from(offset) + 7 * DAY_MINUTES;
            MONDAY_MS + u64::try_from(utc * MINUTE_MS).unwrap() + 59_999
        };
        let is_open = |minute: i64| {
            let minute = minute.rem_euclid(WEEK_MINUTES);
            windows.open.iter().any(|window| is_open_naively(window, minute))
        };
        prop_assert_eq!(windows.is_open(at_ms(minute)), is_open(minute));
        let next = (minute..).find(|minute| is_open(*minute)).unwrap();
        let opens_ms = if next == minute { at_ms(minute) } else { at_ms(next) - 59_999 };
        prop_assert_eq!(windows.opens_ms(at_ms(minute)), Some(opens_ms));
    }
}
