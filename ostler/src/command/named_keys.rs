//! What the commands have in common that keep a list of named keys in the trust document: `ostler readers`, `users`.
//!
//! Decides what a changed line takes the place of: a key has one line, and a name one key.

use protocol::signed::PublicKey;
use protocol::trust::{NamedKey, Trust};

use crate::exit::{Code, Failure};
use crate::govern::{self, Authority};
use crate::session::Session;
use crate::show;

/// The list by the document in force.
pub(super) async fn in_force<K: NamedKey>(session: &Session) -> Result<Vec<K>, Failure> {
    let trust = govern::in_force(session, &session.picture().await?).await;
    Ok(trust.iter().flat_map(|trust| K::list(trust).clone()).collect())
}

/// Adds a line. `warn` says, of the document that is about to be signed, what its operator may not have thought of.
pub(super) async fn add<K: NamedKey>(
    session: &Session,
    line: K,
    warn: impl FnOnce(&Trust),
) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let authority = Authority::newest(session, &picture).await?;
    let Some(next) = with(&authority.trust, line)? else { return Ok(is_so()) };
    warn(&next);
    let (of, count) = (format!("{}s", K::WHAT), K::list(&next).len());
    authority.decree_count(session, &picture, next, &of, count).await
}

/// Takes a line away, by its name or its key.
pub(super) async fn remove<K: NamedKey>(session: &Session, meant: &str) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let authority = Authority::newest(session, &picture).await?;
    let key: Option<PublicKey> = meant.parse().ok();
    let mut next = authority.trust.next();
    let list = K::list_mut(&mut next);
    list.retain(|known| known.name() != meant && Some(known.key()) != key.as_ref());
    let (of, count) = (format!("{}s", K::WHAT), list.len());
    if count == K::list(&authority.trust).len() {
        return Ok(is_so());
    }
    authority.decree_count(session, &picture, next, &of, count).await
}

/// The document with this line, if there is anything to change.
pub(super) fn with<K: NamedKey>(trust: &Trust, line: K) -> Result<Option<Trust>, Failure> {
    let (what, list) = (K::WHAT, K::list(trust));
    if list.contains(&line) {
        return Ok(None);
    }
    if let Some(known) = list.iter().find(|known| known.name() == line.name())
        && known.key() != line.key()
    {
        let (name, key) = (known.name(), known.key());
        let failure =
            Failure::new(Code::Refused, format!("{what} {name:?} has another key, {key}"));
        return Err(
            failure.next(format!("ostler {what}s remove {name:?} first, or another --name"))
        );
    }
    let mut next = trust.next();
    // Another name for a key, or another thing that it may do, takes the place of what it had.
    let list = K::list_mut(&mut next);
    list.retain(|known| known.key() != line.key());
    list.push(line);
    next.validate().map_err(|error| Failure::new(Code::Refused, error.to_string()))?;
    Ok(Some(next))
}

fn is_so() -> Code {
    show::note("it is so already");
    Code::Ok
}
