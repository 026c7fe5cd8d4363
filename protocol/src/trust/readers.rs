//! Keys that look and do nothing: of people who are to see and not to touch, and of what collects metrics.
//!
//! A key of its own for each, so that taking one away takes nothing from anybody else, and none of them is
//! worth stealing. A *scraper* sees less than everything on purpose: the key of a collector lies on a machine with many
//! other secrets and users, and specs may hold what a guest is told at its first start.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Trust;
use crate::job::Role;
use crate::signed::PublicKey;

/// Most of them: each is a line in a document that every host keeps.
pub const READERS_MAX: usize = 64;

/// Longest name, in characters.
pub const NAME_CHARS_MAX: usize = 63;

/// A key that looks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reader {
    /// Its key.
    pub key: PublicKey,
    /// What operators call it; each name once.
    pub name: String,
    /// How much it sees.
    pub sees: Sight,
}

/// How much a reader sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sight {
    /// Whatever can be read.
    Everything,
    /// `/metrics`.
    Metrics,
}

impl Reader {
    /// What it is to those whom it asks.
    #[must_use]
    pub fn role(&self) -> Role {
        match self.sees {
            Sight::Everything => Role::Reader,
            Sight::Metrics => Role::Scraper,
        }
    }
}

/// Checks a document's readers against the rest of it. A key that is something else as well would have two
/// roles, and its owner would not know which.
pub(super) fn validate(trust: &Trust) -> Result<(), String> {
    let readers = &trust.readers;
    if readers.len() > READERS_MAX {
        return Err(format!("{} readers; at most {READERS_MAX}", readers.len()));
    }
    let without = Trust { readers: vec![], ..trust.clone() };
    for (n, Reader { key, name, .. }) in readers.iter().enumerate() {
        check_name("reader", name)?;
        if let Some(other) = readers[..n].iter().find(|other| other.key == *key) {
            return Err(format!("readers {:?} and {name:?} have one key", other.name));
        }
        if readers[..n].iter().any(|other| other.name == *name) {
            return Err(format!("two readers are called {name:?}"));
        }
        if let Some(role) = without.role_of(key) {
            return Err(format!("the key of reader {name:?} has a role already: {role}"));
        }
    }
    Ok(())
}

/// What people may call a key, so that it fits a line.
pub(super) fn check_name(whose: &str, name: &str) -> Result<(), String> {
    let chars = name.chars().count();
    if chars == 0 || chars > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        return Err(format!(
            "a {whose}'s name has 1 to {NAME_CHARS_MAX} printable characters, not {name:?}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ClusterId;
    use crate::signed::SecretKey;
    use crate::trust::{Right, Slot};

    fn key(seed: u8) -> PublicKey {
        SecretKey::from_seed([seed; 32]).public()
    }

    fn reader(seed: u8, name: &str, sees: Sight) -> Reader {
        Reader { key: key(seed), name: name.to_owned(), sees }
    }

    fn trust(readers: Vec<Reader>) -> Trust {
        Trust {
            version: 1,
            operators: vec![key(1)],
            arbiters: vec![Slot { slot: 0, key: key(2), url: String::new() }],
            roster: vec![key(3)],
            readers,
            ..Trust::of_nobody(ClusterId::new("c1").unwrap())
        }
    }

    #[test]
    fn a_reader_looks_and_a_scraper_reads_metrics_alone() {
        let trust = trust(vec![
            reader(7, "ann", Sight::Everything),
            reader(8, "prometheus", Sight::Metrics),
        ]);
        trust.validate().unwrap();
        let may = |seed, right| trust.permit(Some(&key(seed)), right).is_ok();
        for right in [Right::Run, Right::Govern] {
            assert!(!may(7, right) && !may(8, right), "{right:?}");
        }
        assert!(may(7, Right::Read) && may(7, Right::Scrape));
        assert!(!may(8, Right::Read) && may(8, Right::Scrape));
        assert!(!may(9, Right::Scrape), "a stranger reads nothing");
        assert!(may(3, Right::Scrape) && may(3, Right::Read), "members look as ever");
    }

    #[test]
    fn a_document_with_contradicting_readers_is_refused() {
        let one = reader(7, "ann", Sight::Everything);
        let cases = [
            vec![one.clone(), reader(7, "bob", Sight::Metrics)],
            vec![one.clone(), reader(8, "ann", Sight::Metrics)],
            vec![reader(1, "the operator", Sight::Everything)],
            vec![reader(3, "a host", Sight::Everything)],
            vec![reader(7, "", Sight::Everything)],
            vec![reader(7, "two\nlines", Sight::Everything)],
            (0..=64).map(|n| reader(100 + n, &format!("r{n}"), Sight::Metrics)).collect(),
        ];
        for readers in cases {
            let names: Vec<_> = readers.iter().map(|reader| reader.name.clone()).collect();
            assert!(trust(readers).validate().is_err(), "{names:?}");
        }
    }

    #[test]
    fn a_document_without_readers_reads_as_ever() {
        let json = serde_json::to_value(trust(vec![])).unwrap();
        assert!(json.get("readers").is_none());
        let with = serde_json::to_value(trust(vec![reader(8, "p", Sight::Metrics)])).unwrap();
        assert_eq!(with["readers"][0]["sees"], "metrics");
    }
}
