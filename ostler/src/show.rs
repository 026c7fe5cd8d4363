//! How things look: tables on a terminal, JSON for scripts, sizes and ages for people.

use std::io::Write as _;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Writes a line to standard output. When nobody reads any more (`ostler ps | head`), the command
/// is over.
pub(crate) fn line(text: &str) {
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// Writes a line for the person, where it does not get into a script's data.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// What kept a VM from having its new size at once, for the person.
pub(crate) fn resize_reasons(job: &protocol::job::Job) {
    for why in job.resize.iter().flat_map(|resize| &resize.why) {
        note(&format!("  {why}"));
    }
}

/// One JSON document on one line.
pub(crate) fn json<T: Serialize>(value: &T) {
    line(&serde_json::to_string(value).expect("our nouns are always valid JSON"));
}

/// One JSON document to be read.
pub(crate) fn json_pretty<T: Serialize>(value: &T) {
    line(&serde_json::to_string_pretty(value).expect("our nouns are always valid JSON"));
}

/// A table without lines, as `ps` and `ls` do.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) {
    columns(&header, rows.into_iter().map(Vec::from).collect());
}

/// The same of as many columns as the header has.
pub(crate) fn columns(header: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for text in table.to_string().lines() {
        line(text.trim_end());
    }
}

/// An age: `3s`, `12m`, `5h`, `2d`; below a second in ms.
pub(crate) fn age(ms: u64) -> String {
    match ms / 1000 {
        0 => format!("{ms}ms"),
        s @ 1..=99 => format!("{s}s"),
        s @ 100..=5_999 => format!("{}m", s / 60),
        s @ 6_000..=172_799 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

/// A duration as a sentence ends with it: `(4.1 s)`.
pub(crate) fn took(ms: u64) -> String {
    format!("({}.{} s)", ms / 1000, ms % 1000 / 100)
}

/// A moment as people write it, in UTC.
pub(crate) fn moment(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or_default();
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| "-".into(), |at| format!("{at:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short_and_durations_have_a_tenth() {
        let shown = [5, 1_000, 99_999, 100_000, 6_000_000, 172_800_000].map(age);
        assert_eq!(shown, ["5ms", "1s", "99s", "1m", "1h", "2d"]);
        assert_eq!(took(4_160), "(4.1 s)");
        assert_eq!(moment(0), "1970-01-01T00:00:00.000Z");
    }
}
