//! Reading frames of agents and monitors that may be newer than this program.
//!
//! Decides what can still be used of a frame that does not read as one: fields nobody here knows
//! are left out, so are jobs in states nobody here knows; a fact of an unknown kind is not guessed
//! at but read again as part of an inventory. What has not even the shape of a frame is hostile.

use protocol::event::Frame;
use protocol::id::{Cursor, HostId};
use serde::Deserialize;
use serde_json::Value;
use transport::stream::{Encoded, StreamError};

/// Unknown fields that are left out of one frame before it is given up.
const FIELDS_MAX: usize = 16;

/// Longest word of another version that is repeated in a message.
const WORD_CHARS_MAX: usize = 40;

/// What a text says.
#[derive(Debug, Clone)]
pub enum Reading {
    /// A frame.
    Frame(Frame),
    /// What is left of a newer frame, and what was left out.
    Partly(Frame, Newer),
    /// A frame without which the row is incomplete.
    Missed(Newer),
    /// A frame of a kind that does not exist here. Nothing we know is missing.
    Skipped(Newer),
}

/// Something only a newer version understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newer {
    /// Of which host, when it says so.
    pub host: Option<HostId>,
    /// What, in words.
    pub what: String,
}

/// What every frame of any version has.
#[derive(Deserialize)]
struct Envelope {
    frame: String,
    #[serde(default)]
    host: Value,
    cursor: Option<Cursor>,
    fact: Option<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    kind: String,
}

/// Reads a text as a frame, or as much of it as can be understood; an error if it is none.
pub fn read(text: &Encoded) -> Result<Reading, StreamError> {
    match text.parse() {
        Ok(frame) => Ok(Reading::Frame(frame)),
        Err(error) => read_newer(text.as_str()).ok_or(error),
    }
}

fn read_newer(text: &str) -> Option<Reading> {
    let envelope: Envelope = serde_json::from_str(text).ok()?;
    let mut value: Value = serde_json::from_str(text).ok()?;
    match envelope.frame.as_str() {
        "event" => {
            let host: HostId = envelope.host.as_str()?.parse().ok()?;
            let (_, kind) = (envelope.cursor?, envelope.fact?.kind);
            if let Some((frame, fields)) = without_unknown_fields::<Frame>(&mut value) {
                return Some(Reading::Partly(frame, Newer { host: Some(host), what: fields }));
            }
            let what = format!("its event of kind {:?} can't be understood", word(&kind));
            Some(Reading::Missed(Newer { host: Some(host), what }))
        }
        "inventory" => {
            let host: HostId = value.get("host")?.get("id")?.as_str()?.parse().ok()?;
            let mut left_out = drop_unknown(&mut value, "jobs", "job", |job| {
                without_unknown_fields::<protocol::job::Job>(job).map(|(_, fields)| fields)
            });
            left_out.extend(drop_unknown(&mut value, "observed", "domain", |domain| {
                without_unknown_fields::<protocol::job::ObservedDomain>(domain)
                    .map(|(_, fields)| fields)
            }));
            let (frame, fields) = without_unknown_fields::<Frame>(&mut value)?;
            left_out.extend(Some(fields).filter(|fields| !fields.is_empty()));
            Some(Reading::Partly(frame, Newer { host: Some(host), what: left_out.join(", ") }))
        }
        "current" | "freshness" => None,
        other => {
            let what = format!("frames of kind {:?} are not known here", word(other));
            Some(Reading::Skipped(Newer { host: None, what }))
        }
    }
}

/// Drops the members of a list that can't be read, and tells which, and what else was left out.
fn drop_unknown(
    frame: &mut Value,
    list: &str,
    noun: &str,
    read: impl Fn(&mut Value) -> Option<String>,
) -> Vec<String> {
    let mut words = Vec::new();
    let Some(Value::Array(members)) = frame.get_mut(list) else { return words };
    members.retain_mut(|member| {
        let name = member.get("id").or_else(|| member.get("uuid")).and_then(Value::as_str);
        let name = word(name.unwrap_or("without a name"));
        let read = read(member);
        let is_kept = read.is_some();
        match read {
            None => words.push(format!("its {noun} {name} can't be understood and is not shown")),
            Some(fields) if !fields.is_empty() && !words.contains(&fields) => words.push(fields),
            Some(_) => {}
        }
        is_kept
    });
    words
}

/// Reads a value after leaving out the fields that are refused as unknown, and names them.
fn without_unknown_fields<T: for<'a> Deserialize<'a>>(value: &mut Value) -> Option<(T, String)> {
    let mut left_out: Vec<String> = Vec::new();
    for _ in 0..=FIELDS_MAX {
        match T::deserialize(&*value) {
            Ok(read) if left_out.is_empty() => return Some((read, String::new())),
            Ok(read) => {
                let fields = left_out.iter().map(|f| format!("`{}`", word(f)));
                let fields = fields.collect::<Vec<_>>().join(", ");
                return Some((read, format!("field {fields} is not known here")));
            }
            Err(error) => {
                let field = unknown_field(&error.to_string())?;
                if !remove(value, &field) {
                    return None;
                }
                left_out.push(field);
            }
        }
    }
    None
}

/// The library tells a field's name in words only.
fn unknown_field(error: &str) -> Option<String> {
    let rest = error.strip_prefix("unknown field `")?;
    Some(rest.split_once('`')?.0.to_owned())
}

/// Removes a field wherever it is, as its place is not told; whether it was anywhere.
fn remove(value: &mut Value, field: &str) -> bool {
    match value {
        Value::Object(fields) => {
            let was_here = fields.remove(field).is_some();
            fields.values_mut().fold(was_here, |found, inner| remove(inner, field) | found)
        }
        Value::Array(members) => {
            members.iter_mut().fold(false, |found, inner| remove(inner, field) | found)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn word(text: &str) -> String {
    text.chars().take(WORD_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use protocol::event::Fact;
    use protocol::host::{HostIntent, Inventory};
    use protocol::job::JobState;

    use super::*;
    use crate::core::{Core, Effect, Input, Source, Wanted};
    use crate::packed::PackedView;

    /// What agents of the two versions before this one have said, by commit.
    const RECORDED: [(&str, &str, &str); 2] = [
        (
            "61aa392",
            include_str!("../tests/recorded/61aa392/frames.jsonl"),
            include_str!("../tests/recorded/61aa392/inventory.json"),
        ),
        (
            "0b9c296",
            include_str!("../tests/recorded/0b9c296/frames.jsonl"),
            include_str!("../tests/recorded/0b9c296/inventory.json"),
        ),
    ];

    fn frames(version: &str, lines: &str) -> Vec<Frame> {
        let read = |line| {
            let text = Encoded::of(&serde_json::from_str::<Value>(line).expect(version));
            match read(&text) {
                Ok(Reading::Frame(frame)) => frame,
                other => panic!("{version}: {other:?}: {line}"),
            }
        };
        lines.lines().map(read).collect()
    }

    /// Before guests moved through their agents, a target did not say where it takes them.
    #[test]
    fn a_guest_on_its_way_to_an_older_agent_is_read() {
        let (version, _, inventory) = RECORDED[0];
        let mut inventory: Value = serde_json::from_str(inventory).expect(version);
        let from = inventory["host"]["id"].clone();
        inventory["jobs"][0]["state"] = "migrating_in".into();
        inventory["jobs"][0]["migration"] = serde_json::json!({ "side": "incoming", "from": from });
        inventory["frame"] = "inventory".into();
        let text = Encoded::of(&inventory);
        assert!(matches!(read(&text), Ok(Reading::Frame(Frame::Inventory(_)))), "{inventory}");
    }

    /// What a host's operator intends with it may be something that is not known here.
    #[test]
    fn an_unknown_intent_hides_no_host() {
        let (version, _, inventory) = RECORDED[1];
        let mut inventory: Value = serde_json::from_str(inventory).expect(version);
        inventory["host"]["intent"] = "hibernate".into();
        let read: Inventory = serde_json::from_value(inventory).expect("a whole inventory");
        assert_eq!(read.host.intent, Some(HostIntent::Unknown));
    }

    #[test]
    fn agents_of_the_two_versions_before_are_read_whole() {
        for (version, lines, inventory) in RECORDED {
            let frames = frames(version, lines);
            let Some(Frame::Inventory(first)) = frames.first() else { panic!("{version}") };
            let host = first.host.id.clone();
            let mut core = Core::new(0);
            let mut out = Vec::new();
            let source = Source::Host(host.clone());
            let wanted = Wanted { sources: [source.clone()].into(), ..Wanted::default() };
            core.handle(0, Input::Wanted(wanted), &mut out);
            core.handle(0, Input::Opened { source: source.clone(), url: String::new() }, &mut out);
            let mut states = Vec::new();
            for frame in frames {
                if let Frame::Event(event) = &frame
                    && let Fact::JobChanged { job } = &event.fact
                    && job.id.as_str() == "web-1"
                {
                    states.push(job.state);
                }
                core.handle(1, Input::Frame { source: source.clone(), frame }, &mut out);
            }
            let is_trouble =
                |e: &&Effect| matches!(e, Effect::Resync(_) | Effect::Quarantine { .. });
            assert_eq!(out.iter().find(is_trouble), None, "{version}");
            let life = [
                JobState::Accepted,
                JobState::Starting,
                JobState::Running,
                JobState::Stopping,
                JobState::Stopped,
            ];
            states.dedup();
            assert_eq!(states, life, "{version}");
            let mut last = PackedView::default();
            last.merge_inventory(serde_json::from_str::<Inventory>(inventory).expect(version));
            assert_eq!(core.view(), &last, "{version}: events and inventory tell the same");
            let row = core.view().host(&host).expect(version);
            let job = row.jobs.values().next().expect(version);
            let job = (job.id().as_str(), job.state());
            assert_eq!(job, ("db-1", JobState::Running), "{version}");
            assert_eq!((row.host.allocation.vcpus, row.host.intent), (2, None), "{version}");
        }
    }
}
