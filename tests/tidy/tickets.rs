//! docs/ticket-format.md against the types: every kind of signed message is in it, with every field, and nothing
//! that is in it is missing in the code.
//!
//! Fields are read from the source: a signed message has no schema of its own on any path.

use std::collections::{BTreeMap, BTreeSet};

use crate::assert_none;
use crate::repository::{self, TextFile};

const FORMAT: &str = "docs/ticket-format.md";

/// A kind of signed message: what its signature begins with, the type, and the type's fields on the wire.
type Messages = BTreeMap<String, BTreeSet<String>>;

/// `impl Message for T` with its `DOMAIN`, over all of `protocol` but its unit tests.
fn messages(files: &[TextFile]) -> Messages {
    let mut messages = Messages::new();
    for file in files {
        let code = file.text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        for part in code.split("\nimpl Message for ").skip(1) {
            let name = part.split([' ', '{']).next().unwrap_or_default();
            let domain = part.split("const DOMAIN: &'static str = \"").nth(1);
            let Some(domain) = domain.and_then(|rest| rest.split('"').next()) else { continue };
            messages.insert(domain.to_owned(), fields(code, name));
        }
    }
    messages
}

/// The public fields of a struct; one that is flattened is the tag of its enum.
fn fields(code: &str, name: &str) -> BTreeSet<String> {
    let body = code.split(&format!("\npub struct {name} {{\n")).nth(1).unwrap_or_default();
    let body = body.split("\n}").next().unwrap_or_default();
    let (mut fields, mut is_flat) = (BTreeSet::new(), false);
    for line in body.lines().map(str::trim) {
        is_flat |= line == "#[serde(flatten)]";
        let Some((field, kind)) = line.strip_prefix("pub ").and_then(|line| line.split_once(": "))
        else {
            continue;
        };
        let tagged = is_flat.then(|| tag(code, kind.trim_end_matches(',')));
        fields.insert(tagged.flatten().unwrap_or_else(|| field.to_owned()));
        is_flat = false;
    }
    fields
}

fn tag(code: &str, name: &str) -> Option<String> {
    let before = code.split(&format!("pub enum {name} {{")).next()?;
    Some(before.rsplit("tag = \"").next()?.split('"').next()?.to_owned())
}

/// Words in backticks, but for those in brackets: these are fields of fields.
fn words(cell: &str) -> BTreeSet<String> {
    let (mut outside, mut depth) = (String::new(), 0_u32);
    for c in cell.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if depth == 0 => outside.push(c),
            _ => {}
        }
    }
    outside.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn rows<'a>(document: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let start = format!("## {heading}");
    let section = document.lines().skip_while(|line| *line != start).skip(1);
    let section = section.take_while(|line| !line.starts_with("## "));
    let rows = section.filter(|line| line.starts_with("| "));
    rows.skip(1).map(|line| line.split('|').map(str::trim).collect()).collect()
}

/// What the document says: the table of messages, and of a trust document, which is long, a table of its own.
fn documented(document: &str) -> Messages {
    let mut said = Messages::new();
    for row in rows(document, "Messages") {
        if let [_, name, fields, ..] = row[..] {
            said.insert(name.trim_matches('`').to_owned(), words(fields));
        }
    }
    let trust = rows(document, "The trust document");
    let trust = trust.iter().filter_map(|row| row.get(1)).flat_map(|cell| words(cell));
    said.insert("trust".to_owned(), trust.collect());
    said
}

fn check(document: &str, messages: &Messages) -> Vec<String> {
    let said = documented(document);
    let mut violations = Vec::new();
    for (domain, fields) in messages {
        let Some(told) = said.get(domain) else {
            violations.push(format!("{FORMAT}: add a row for `{domain}`"));
            continue;
        };
        let missing = fields.difference(told).map(|field| format!("add `{field}` to `{domain}`"));
        let gone = told.difference(fields).map(|field| format!("`{domain}` has no `{field}`"));
        violations.extend(missing.chain(gone).map(|what| format!("{FORMAT}: {what}")));
    }
    let gone = said.keys().filter(|domain| !messages.contains_key(*domain));
    violations.extend(gone.map(|domain| format!("{FORMAT}: nobody signs `{domain}`")));
    violations
}

#[test]
fn every_signed_message_is_documented_with_its_fields() {
    let files = repository::files(".rs");
    let files: Vec<TextFile> =
        files.into_iter().filter(|file| file.path.starts_with("protocol/src/")).collect();
    let messages = messages(&files);
    assert!(
        messages.len() >= 8 && messages.values().all(|fields| !fields.is_empty()),
        "{messages:?}"
    );
    let document = repository::read(FORMAT).text;
    let listed = document
        .split("with `domain` one of ")
        .nth(1)
        .and_then(|rest| rest.split(" in ASCII").next());
    let listed = words(listed.unwrap_or_default());
    assert_eq!(listed, messages.keys().cloned().collect(), "{FORMAT} lists the domains");
    assert_none("signed messages are documented", &check(&document, &messages));
}

#[test]
fn a_field_that_nobody_has_written_down_is_caught() {
    let code = "use x;\n#[serde(tag = \"what\")]\npub enum Act {\n}\npub struct Yes {\n    /// It.\n    pub of: u8,\n    \
                #[serde(flatten)]\n    pub act: Act,\n}\nimpl Message for Yes {\n    const DOMAIN: &'static str = \"yes\";\n}\n";
    let found = messages(&[TextFile::sample("protocol/src/a.rs", code)]);
    let fields = ["of", "what"].map(str::to_owned).into_iter().collect();
    assert_eq!(found, BTreeMap::from([("yes".to_owned(), fields)]));
    let trust = "## The trust document\n| field | what |\n|---|---|\n";
    let head = format!("{trust}## Messages\n| message | fields |\n|---|---|\n");
    let no_trust = |violation: &String| !violation.contains("`trust`");
    let checked = |row: &str| -> usize {
        check(&format!("{head}{row}"), &found).iter().filter(|said| no_trust(said)).count()
    };
    assert_eq!(checked("| yes | `of` (`x`), `what` | y |\n"), 0);
    assert_eq!(
        checked("| yes | `of`, `x` | y |\n| no | `a` | y |\n"),
        3,
        "missing, gone, nobody's"
    );
    assert_eq!(checked(""), 1);
}
