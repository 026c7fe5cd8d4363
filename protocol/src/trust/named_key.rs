//! Keys that the trust document gives a name and one thing that they may do: readers and users.
//!
//! A key of its own for each, so that taking one away takes nothing from anybody else. A key that is something else
//! as well would have two roles, and its owner would not know which: such a document is refused.

use super::Trust;
use crate::signed::PublicKey;

/// Longest name, in characters.
pub const NAME_CHARS_MAX: usize = 63;

/// A line of a list of the trust document.
pub trait NamedKey: Clone + PartialEq + Sized {
    /// What one of them is called.
    const WHAT: &'static str;

    /// Most of them: each is a line in a document that every host keeps.
    const MAX: usize;

    /// Its key.
    fn key(&self) -> &PublicKey;

    /// What operators call it; each name once in its list.
    fn name(&self) -> &str;

    /// All of them.
    fn list(trust: &Trust) -> &Vec<Self>;

    /// All of them, to be changed.
    fn list_mut(trust: &mut Trust) -> &mut Vec<Self>;
}

/// Checks a list against the rest of its document.
pub(super) fn validate<K: NamedKey>(trust: &Trust) -> Result<(), String> {
    let (what, list) = (K::WHAT, K::list(trust));
    if list.len() > K::MAX {
        return Err(format!("{} {what}s; at most {}", list.len(), K::MAX));
    }
    let mut without = trust.clone();
    K::list_mut(&mut without).clear();
    for (n, one) in list.iter().enumerate() {
        let name = one.name();
        check_name(what, name)?;
        if let Some(other) = list[..n].iter().find(|other| other.key() == one.key()) {
            return Err(format!("{what}s {:?} and {name:?} have one key", other.name()));
        }
        if list[..n].iter().any(|other| other.name() == name) {
            return Err(format!("two {what}s are called {name:?}"));
        }
        if let Some(role) = without.role_of(one.key()) {
            return Err(format!("the key of {what} {name:?} has a role already: {role}"));
        }
    }
    Ok(())
}

/// What people may call a key, so that it fits a line.
fn check_name(whose: &str, name: &str) -> Result<(), String> {
    let chars = name.chars().count();
    if chars == 0 || chars > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        return Err(format!(
            "a {whose}'s name has 1 to {NAME_CHARS_MAX} printable characters, not {name:?}"
        ));
    }
    Ok(())
}
