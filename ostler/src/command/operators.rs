//! `ostler operators`: the keys that may do everything, and changing them.
//!
//! ```text
//!   another's `operators key` ──▶ add KEY ──▶ their `bootstrap`, which fetches the document
//!                                     │
//!                                     └──▶ remove KEY, by who stays, once every host knows them
//! ```
//!
//! A key is taken out by another one. So who has two can lose one; who has lost the only one has lost
//! the cluster's trust document, and the last can't be taken out. Hosts believe what an operator has signed
//! of the document that they obey: one that has missed how a key was added follows nothing that this key has
//! signed, so nobody is taken out whom such a host still needs.

use protocol::signed::PublicKey;
use protocol::trust::Trust;
use serde_json::json;

use crate::cli::{Global, OperatorsArgs, OperatorsCommand};
use crate::exit::{Code, Failure};
use crate::govern::Authority;
use crate::picture::Picture;
use crate::session::{Session, context_of};
use crate::show;

/// See the module.
pub(crate) async fn run(session: &Session, args: OperatorsArgs) -> Result<Code, Failure> {
    match args.command {
        None => list(session).await,
        Some(OperatorsCommand::Key) => unreachable!("it needs no cluster"),
        Some(OperatorsCommand::Add { key }) => add(session, key).await,
        Some(OperatorsCommand::Remove { key }) => remove(session, key).await,
    }
}

/// `key`: this context's, made at the first use. No cluster need be known here yet.
pub(crate) fn key(global: &Global) -> Result<Code, Failure> {
    let own = context_of(global).operator()?.public();
    match global.json {
        true => show::json_pretty(&json!({ "own": own })),
        false => show::line(&own.to_string()),
    }
    Ok(Code::Ok)
}

async fn list(session: &Session) -> Result<Code, Failure> {
    let own = session.client.identity().public();
    let picture = session.picture().await?;
    let keys = Authority::newest(session, &picture).await?.trust.operators;
    if session.is_json {
        show::json_pretty(&json!({ "own": own, "operators": keys }));
        return Ok(Code::Ok);
    }
    let row = |key: &PublicKey| {
        let whose = if *key == own { "this context" } else { "" };
        [key.to_string(), whose.to_owned()]
    };
    show::table(["KEY", "OF"], keys.iter().map(row).collect());
    if keys.len() == 1 {
        show::note(
            "who loses it has lost the cluster: ostler --context OTHER operators key, and add that one",
        );
    }
    Ok(Code::Ok)
}

async fn add(session: &Session, key: PublicKey) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let authority = Authority::newest(session, &picture).await?;
    let mut next = authority.trust.next();
    if next.operators.contains(&key) {
        // A host that answers and does not take it may not know who has signed it: we may be known there.
        let silent = authority.give_again(session, &picture).await?;
        if silent.iter().all(|untold| !untold.is_refused) {
            show::note("it is so already");
            return Ok(Code::Ok);
        }
    } else {
        next.operators.push(key);
    }
    let count = next.operators.len();
    authority.decree_count(session, &picture, next, "operators", count).await
}

async fn remove(session: &Session, key: PublicKey) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let authority = Authority::newest(session, &picture).await?;
    let mut next = authority.trust.next();
    if !next.operators.contains(&key) {
        show::note("it is so already");
        return Ok(Code::Ok);
    }
    check_rest(&authority.trust, session.client.identity().public(), key)?;
    check_known(session, &authority, &picture, key).await?;
    next.operators.retain(|known| *known != key);
    let count = next.operators.len();
    authority.decree_count(session, &picture, next, "operators", count).await
}

/// The one that signs must be able to sign again.
fn check_rest(trust: &Trust, own: PublicKey, key: PublicKey) -> Result<(), Failure> {
    if trust.operators == [key] {
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

/// Every host must know those who stay: it would follow nothing that they sign.
async fn check_known(
    session: &Session,
    authority: &Authority,
    picture: &Picture,
    key: PublicKey,
) -> Result<(), Failure> {
    let silent = authority.give_again(session, picture).await?;
    let roster = authority.trust.roster_by_host();
    let unseen = roster.keys().filter(|host| picture.view.host(host).is_none());
    let silent = silent.into_iter().map(|untold| (untold.host, untold.why));
    let unseen = unseen.map(|host| (host.short().to_owned(), "nobody has heard of it".to_owned()));
    let lines: Vec<(String, String)> = silent.chain(unseen).collect();
    let [(first, _), ..] = lines.as_slice() else { return Ok(()) };
    let list: Vec<String> = lines.iter().map(|(host, why)| format!("{host}: {why}")).collect();
    let what = format!(
        "these hosts do not obey trust version {} yet, and may know nobody but {key}; without it they \
         could never be told anything again\n  - {}",
        authority.trust.version,
        list.join("\n  - ")
    );
    Err(Failure::new(Code::Refused, what).next(format!(
        "bring {first} back, `ostler operators add` once more from the context of {key} if it still \
         refuses; or, if it is off for good, `ostler retire {first} --is-off`"
    )))
}
