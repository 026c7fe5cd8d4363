//! `ostler readers`: keys that look and do nothing, of people and of what collects metrics.
//!
//! ```text
//!   another's `readers key` ──▶ add KEY --name NAME ──▶ their `trust fetch`
//! ```

use protocol::signed::PublicKey;
use protocol::trust::{Reader, Sight, Trust};
use serde_json::json;

use crate::cli::{ReadersArgs, ReadersCommand};
use crate::exit::{Code, Failure};
use crate::govern::Authority;
use crate::session::Session;
use crate::show;

/// See the module.
pub(crate) async fn run(session: &Session, args: ReadersArgs) -> Result<Code, Failure> {
    match args.command {
        None => list(session).await,
        Some(ReadersCommand::Key) => unreachable!("it needs no cluster"),
        Some(ReadersCommand::Add { key, name, metrics_only }) => {
            let sees = if metrics_only { Sight::Metrics } else { Sight::Everything };
            add(session, Reader { key, name, sees }).await
        }
        Some(ReadersCommand::Remove { reader }) => remove(session, &reader).await,
    }
}

async fn list(session: &Session) -> Result<Code, Failure> {
    let readers = match Authority::of(session) {
        Ok(_) => Authority::newest(session, &session.picture().await?).await?.trust.readers,
        // Whoever is no operator knows what this context does.
        Err(_) => session.trust.iter().flat_map(|trust| trust.readers.clone()).collect(),
    };
    if session.is_json {
        show::json_pretty(&json!({ "readers": readers }));
        return Ok(Code::Ok);
    }
    let row = |Reader { key, name, sees }: &Reader| {
        let sees = match sees {
            Sight::Everything => "everything",
            Sight::Metrics => "/metrics",
        };
        [name.clone(), sees.to_owned(), key.to_string()]
    };
    show::table(["NAME", "SEES", "KEY"], readers.iter().map(row).collect());
    Ok(Code::Ok)
}

async fn add(session: &Session, reader: Reader) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let authority = Authority::newest(session, &picture).await?;
    match with(&authority.trust, reader)? {
        Some(next) => {
            let count = next.readers.len();
            authority.decree_count(session, &picture, next, "readers", count).await
        }
        None => {
            show::note("it is so already");
            Ok(Code::Ok)
        }
    }
}

/// The document with this reader, if there is anything to change.
pub(super) fn with(trust: &Trust, reader: Reader) -> Result<Option<Trust>, Failure> {
    if trust.readers.contains(&reader) {
        return Ok(None);
    }
    if let Some(known) = trust.readers.iter().find(|known| known.name == reader.name)
        && known.key != reader.key
    {
        let what = format!("reader {:?} has another key, {}", known.name, known.key);
        return Err(Failure::new(Code::Refused, what)
            .next(format!("ostler readers remove {:?} first, or another --name", known.name)));
    }
    let mut next = trust.next();
    // Another name for a key, or another sight, takes the place of what it had.
    next.readers.retain(|known| known.key != reader.key);
    next.readers.push(reader);
    next.validate().map_err(|error| Failure::new(Code::Refused, error.to_string()))?;
    Ok(Some(next))
}

async fn remove(session: &Session, reader: &str) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let authority = Authority::newest(session, &picture).await?;
    let key: Option<PublicKey> = reader.parse().ok();
    let is_meant = |known: &Reader| known.name == reader || Some(known.key) == key;
    let mut next = authority.trust.next();
    next.readers.retain(|known| !is_meant(known));
    if next.readers.len() == authority.trust.readers.len() {
        show::note("it is so already");
        return Ok(Code::Ok);
    }
    let count = next.readers.len();
    authority.decree_count(session, &picture, next, "readers", count).await
}

#[cfg(test)]
mod tests {
    use protocol::id::ClusterId;
    use transport::Identity;

    use super::*;

    fn reader(key: &Identity, name: &str, sees: Sight) -> Reader {
        Reader { key: key.public(), name: name.to_owned(), sees }
    }

    #[test]
    fn a_key_has_one_line_and_a_name_one_key() {
        let (operator, one, two) =
            (Identity::ephemeral(), Identity::ephemeral(), Identity::ephemeral());
        let slot = protocol::trust::Slot { slot: 0, key: two.public(), url: String::new() };
        let trust = Trust {
            version: 4,
            operators: vec![operator.public()],
            arbiters: vec![slot],
            ..Trust::of_nobody("c1".parse::<ClusterId>().unwrap())
        };
        let first = with(&trust, reader(&one, "ann", Sight::Metrics)).unwrap().unwrap();
        assert_eq!((first.version, first.readers.len()), (5, 1));
        assert_eq!(with(&first, reader(&one, "ann", Sight::Metrics)).unwrap(), None);
        let wider = with(&first, reader(&one, "ann", Sight::Everything)).unwrap().unwrap();
        assert_eq!(wider.readers, [reader(&one, "ann", Sight::Everything)]);
        let other = Identity::ephemeral();
        assert!(with(&first, reader(&other, "ann", Sight::Metrics)).is_err());
        assert!(with(&first, reader(&two, "an arbiter", Sight::Metrics)).is_err());
    }
}
