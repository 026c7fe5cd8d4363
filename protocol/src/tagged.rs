//! Reads enums that are written as one object with a tag in it, fast when the tag comes first.
//!
//! We write it first. `serde`'s own reader keeps the whole object in between, tag first or not, which
//! costs more than all else of reading an event; this one does so only for another order.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// An enum with a tag.
pub(crate) trait Tagged<'de>: Sized {
    /// The tag's name.
    const TAG: &'static str;
    /// What the tag may be.
    type Kind: Deserialize<'de>;

    /// Reads the rest, which may have the tag among it.
    fn read_rest<D: Deserializer<'de>>(kind: Self::Kind, rest: D) -> Result<Self, D::Error>;
}

/// Reads one.
pub(crate) fn deserialize<'de, T: Tagged<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    deserializer.deserialize_map(Reader(PhantomData))
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

struct Reader<T>(PhantomData<T>);

impl<'de, T: Tagged<'de>> Visitor<'de> for Reader<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with a {:?}", T::TAG)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let mut next: Option<Key<'de>> = map.next_key()?;
        if next.as_ref().is_some_and(|Key(first)| first == T::TAG) {
            let kind = map.next_value()?;
            return T::read_rest(kind, MapAccessDeserializer::new(map));
        }
        let (mut kind, mut rest) = (None, Map::new());
        while let Some(Key(name)) = next {
            if name == T::TAG {
                kind = Some(map.next_value()?);
            } else {
                rest.insert(name.into_owned(), map.next_value()?);
            }
            next = map.next_key()?;
        }
        let kind = kind.ok_or_else(|| A::Error::missing_field(T::TAG))?;
        T::read_rest(kind, Value::Object(rest)).map_err(A::Error::custom)
    }
}
