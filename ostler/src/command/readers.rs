//! `ostler readers`: keys that look and do nothing, of people and of what collects metrics.
//!
//! ```text
//!   another's `readers key` ──▶ add KEY --name NAME ──▶ their `trust fetch`
//! ```

use protocol::trust::{Reader, Sight};
use serde_json::json;

use super::named_keys;
use crate::cli::{ReadersArgs, ReadersCommand};
use crate::exit::{Code, Failure};
use crate::session::Session;
use crate::show;

/// See the module.
pub(crate) async fn run(session: &Session, args: ReadersArgs) -> Result<Code, Failure> {
    match args.command {
        None => list(session).await,
        Some(ReadersCommand::Key) => unreachable!("it needs no cluster"),
        Some(ReadersCommand::Add { key, name, metrics_only }) => {
            let sees = if metrics_only { Sight::Metrics } else { Sight::Everything };
            named_keys::add(session, Reader { key, name, sees }, |_| {}).await
        }
        Some(ReadersCommand::Remove { reader }) => {
            named_keys::remove::<Reader>(session, &reader).await
        }
    }
}

async fn list(session: &Session) -> Result<Code, Failure> {
    let readers: Vec<Reader> = named_keys::in_force(session).await?;
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

#[cfg(test)]
mod tests {
    use protocol::id::ClusterId;
    use protocol::trust::Trust;
    use transport::Identity;

    use super::named_keys::with;
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
