//! The text of a host's id, in place where it is of the length that all real ones have.
//!
//! One letter longer than what other names keep in place, and looked for in maps of ten thousand for
//! every event: each look would follow a pointer a step, and each copy of an id be an allocation.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use compact_str::CompactString;

/// Letters of an id that is a key's fingerprint.
const FINGERPRINT_CHARS: usize = 25;

/// A host's id as text.
#[derive(Clone)]
pub(super) enum HostText {
    Fingerprint([u8; FINGERPRINT_CHARS]),
    Other(CompactString),
}

impl HostText {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Fingerprint(text) => text,
            Self::Other(text) => text.as_bytes(),
        }
    }
}

impl From<&str> for HostText {
    fn from(text: &str) -> Self {
        match text.as_bytes().try_into() {
            Ok(fingerprint) => Self::Fingerprint(fingerprint),
            Err(_) => Self::Other(text.into()),
        }
    }
}

impl From<HostText> for String {
    fn from(text: HostText) -> Self {
        str::to_owned(&text)
    }
}

impl Deref for HostText {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Fingerprint(text) => std::str::from_utf8(text).expect("it was made of text"),
            Self::Other(text) => text,
        }
    }
}

impl fmt::Debug for HostText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl PartialEq for HostText {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for HostText {}

impl Ord for HostText {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            // The first letters of two fingerprints differ, so one comparison of numbers does.
            (Self::Fingerprint(a), Self::Fingerprint(b)) => {
                head(a).cmp(&head(b)).then_with(|| a.cmp(b))
            }
            (a, b) => a.as_bytes().cmp(b.as_bytes()),
        }
    }
}

/// The first letters as a number in the same order.
fn head(text: &[u8; FINGERPRINT_CHARS]) -> u64 {
    u64::from_be_bytes(*text.first_chunk().expect("there are more"))
}

impl PartialOrd for HostText {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for HostText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_comes_back_and_has_its_place_in_the_order_of_texts() {
        let fingerprint = "h2345672345672345672345672";
        let texts = [
            "h",
            "h1",
            "h22222222222222222222222z",
            &fingerprint[..25],
            fingerprint,
            "i",
            &"z".repeat(63),
        ];
        for (i, a) in texts.iter().enumerate() {
            assert_eq!(&*HostText::from(*a), *a);
            for (j, b) in texts.iter().enumerate() {
                let (a, b) = (HostText::from(*a), HostText::from(*b));
                assert_eq!((a.cmp(&b), a == b), (i.cmp(&j), i == j), "{a:?} {b:?}");
            }
        }
    }
}
