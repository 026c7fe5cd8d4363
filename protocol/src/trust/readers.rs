//! Keys that look and do nothing: of people who are to see and not to touch, and of what collects metrics.
//!
//! None of them is worth stealing. A *scraper* sees less than everything on purpose: the key of a collector lies on a machine with many
//! other secrets and users, and specs may hold what a guest is told at its first start.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{NamedKey, Trust};
use crate::job::Role;
use crate::signed::PublicKey;

/// Most of them: each is a line in a document that every host keeps.
pub const READERS_MAX: usize = 64;

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

impl NamedKey for Reader {
    const WHAT: &'static str = "reader";
    const MAX: usize = READERS_MAX;

    fn key(&self) -> &PublicKey {
        &self.key
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn list(trust: &Trust) -> &Vec<Self> {
        &trust.readers
    }

    fn list_mut(trust: &mut Trust) -> &mut Vec<Self> {
        &mut trust.readers
    }
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
