//! `ostler operators`: the keys that may do everything, and changing them.
//!
//! A key is taken out by another one. So who has two can lose one; who has lost the only one has lost
//! the cluster's trust document, and the last can't be taken out.

use protocol::signed::PublicKey;
use serde_json::json;

use crate::cli::{OperatorsArgs, OperatorsCommand};
use crate::exit::{Code, Failure};
use crate::govern::Authority;
use crate::session::Session;
use crate::show;

/// See the module.
pub(crate) async fn run(session: &Session, args: OperatorsArgs) -> Result<Code, Failure> {
    match args.command {
        None => Ok(list(session)),
        Some(OperatorsCommand::Add { key }) => {
            change(session, |keys| {
                if !keys.contains(&key) {
                    keys.push(key);
                }
            })
            .await
        }
        Some(OperatorsCommand::Remove { key }) => {
            check_rest(session, key)?;
            change(session, |keys| keys.retain(|known| *known != key)).await
        }
    }
}

fn list(session: &Session) -> Code {
    let own = session.client.identity().public();
    let keys = session.trust.as_ref().map(|trust| trust.operators.clone()).unwrap_or_default();
    if session.is_json {
        show::json_pretty(&json!({ "own": own, "operators": keys }));
        return Code::Ok;
    }
    let row = |key: &PublicKey| {
        let whose = if *key == own { "this context" } else { "" };
        [key.to_string(), whose.to_owned()]
    };
    show::table(["KEY", "OF"], keys.iter().map(row).collect());
    if !keys.contains(&own) {
        show::note(&format!("the key of this context is no operator's: {own}"));
    }
    Code::Ok
}

/// The one that signs must be able to sign again.
fn check_rest(session: &Session, key: PublicKey) -> Result<(), Failure> {
    let own = session.client.identity().public();
    let keys = session.trust.as_ref().map(|trust| trust.operators.clone()).unwrap_or_default();
    if keys == [key] {
        let what = "it is the only operator's key: nobody could ever change the cluster again";
        return Err(Failure::new(Code::Refused, what)
            .next("ostler operators add, with the key of another context"));
    }
    if own == key {
        let what = "it is the key of this context, which could not see to it that all hosts obey";
        return Err(Failure::new(Code::Refused, what)
            .next("take it out from the context of another operator"));
    }
    Ok(())
}

async fn change(
    session: &Session,
    change: impl FnOnce(&mut Vec<PublicKey>),
) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let authority = Authority::newest(session, &picture).await?;
    let mut next = authority.trust.clone();
    change(&mut next.operators);
    if next == authority.trust {
        show::note("it is so already");
        return Ok(Code::Ok);
    }
    next.version += 1;
    let (version, count) = (next.version, next.operators.len());
    let silent = authority.decree(session, &picture, next).await?;
    if session.is_json {
        show::json_pretty(&json!({ "operators": count, "trust_version": version,
            "not_told": silent }));
    } else {
        show::note(&format!("{count} operators, by trust version {version}"));
    }
    Ok(Code::Ok)
}
