//! Changing who is trusted, and with how much: the next trust document, signed by this operator.
//!
//! Decides who may, that the document is kept before anybody obeys it, and that a host which does not
//! take it at once is named and stops nothing: bootstrap gives it later.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use protocol::api::Health;
use protocol::job::Role;
use protocol::refusal::Refusal;
use protocol::signed::{PublicKey, Signed};
use protocol::trust::{Trust, TrustError};
use serde::de::IgnoredAny;
use serde_json::json;
use transport::{CallError, Endpoint, Identity, Method};

use crate::exit::{Code, Failure};
use crate::picture::{Picture, chain};
use crate::session::Session;
use crate::show;

/// Hosts that are given the document at a time.
const ASKED_AT_ONCE: usize = 64;

/// How long arbiters and controllers may take to obey a document that their hosts have.
const OBEDIENCE_MAX: Duration = Duration::from_secs(15);

/// How often they are asked.
const OBEDIENCE_POLL: Duration = Duration::from_millis(100);

/// An operator with the document in force.
pub(crate) struct Authority {
    operator: Arc<Identity>,
    /// The document in force.
    pub(crate) trust: Trust,
}

impl Authority {
    /// The operator of this context, if it is one.
    pub(crate) fn of(session: &Session) -> Result<Self, Failure> {
        let operator = Arc::clone(session.client.identity());
        let trust = session.trust.clone().filter(|_| !session.is_direct).ok_or_else(|| {
            Failure::usage("this changes the cluster's trust document, and none is here")
                .next("use the context that the cluster was bootstrapped from, without --hosts")
        })?;
        if !trust.operators.contains(&operator.public()) {
            let what = "the key of this context is no operator's of the cluster";
            return Err(Failure::new(Code::Refused, what).next("use an operator's context"));
        }
        Ok(Self { operator, trust })
    }

    /// The key that it signs with.
    pub(crate) fn key(&self) -> PublicKey {
        self.operator.public()
    }

    /// The same with the newest document that any host obeys: somebody else may have signed it. Where there are
    /// fencers, with what was said and heard: [`Trust::brought_together`].
    pub(crate) async fn newest(session: &Session, picture: &Picture) -> Result<Self, Failure> {
        let mut authority = Self::of(session)?;
        let asked = stream::iter(agents(picture, &authority.trust)).map(|(_, agent)| async move {
            session.client.get::<Option<Signed<Trust>>>(&agent, "/v1/config/trust").await
        });
        let answers: Vec<_> = asked.buffer_unordered(ASKED_AT_ONCE).collect().await;
        let is_known_nowhere = answers.iter().all(Result::is_err)
            && answers.iter().filter_map(|answer| answer.as_ref().err()).any(is_forbidden);
        if is_known_nowhere {
            return Err(no_more());
        }
        let documents: Vec<_> =
            answers.into_iter().filter_map(|answer| answer.ok().flatten()).collect();
        let mut by_strangers = 0;
        let mut seen: Vec<(Trust, Option<&Signed<Trust>>)> = vec![(authority.trust.clone(), None)];
        for signed in &documents {
            match Trust::recognise(&authority.trust, signed) {
                Ok(other) => seen.push((other, Some(signed))),
                Err(TrustError::NotOperator { .. }) => by_strangers += 1,
                Err(_) => {}
            }
        }
        // One host may lie; most of them obey what others have signed since.
        if by_strangers * 2 > documents.len() {
            return Err(no_more());
        }
        let has_fencers = seen.iter().any(|(trust, _)| !trust.fencing.is_nobodys());
        let obeyed = match has_fencers {
            true => obeyed(session, &seen).await,
            false => None,
        };
        let newest = seen.iter().max_by_key(|(trust, _)| trust.version);
        // As it was signed, for what is shown and for bootstrap: the one that a quorum obeys, if that is known.
        let kept = seen.iter().find(|(trust, _)| Some(trust) == obeyed.as_ref()).or(newest);
        if let Some((trust, Some(signed))) = kept
            && trust.version != authority.trust.version
        {
            session.context.save_trust(signed)?;
        }
        let all: Vec<Trust> = seen.into_iter().map(|(trust, _)| trust).collect();
        if let Some(trust) = Trust::brought_together(&all, obeyed.as_ref()) {
            authority.trust = trust;
        }
        match authority.trust.operators.contains(&authority.operator.public()) {
            true => Ok(authority),
            false => Err(no_more()),
        }
    }

    /// Gives the document in force to every host again; those that do not take it, with why.
    pub(crate) async fn give_again(
        &self,
        session: &Session,
        picture: &Picture,
    ) -> Result<Vec<Untold>, Failure> {
        let Some((signed, trust)) = session.context.trust()? else { return Ok(Vec::new()) };
        Ok(give(session, picture, &trust, &signed).await)
    }

    /// Signs the next document, keeps it, gives it to every host, and waits until it is in force;
    /// the names of the hosts that did not take it, of whom the person is told.
    pub(crate) async fn decree(
        &self,
        session: &Session,
        picture: &Picture,
        mut next: Trust,
    ) -> Result<Vec<String>, Failure> {
        next.drop_fencers_that_left();
        next.validate().map_err(|error| Failure::new(Code::Refused, error.to_string()))?;
        let signed = Signed::seal(&next, self.operator.secret());
        // Kept before anybody obeys it: should this end now, bootstrap gives this very document.
        session.context.save_trust(&signed)?;
        let silent = give(session, picture, &next, &signed).await;
        for Untold { host, why, .. } in &silent {
            let what = "has not taken the trust document yet";
            show::note(&format!("warning: {host} {what}: {why}; `ostler bootstrap` gives it"));
        }
        await_obedience(session, &next).await?;
        Ok(silent.into_iter().map(|untold| untold.host).collect())
    }

    /// The same for a list of keys that the document has, and says how many there are now.
    pub(crate) async fn decree_count(
        &self,
        session: &Session,
        picture: &Picture,
        next: Trust,
        of: &str,
        count: usize,
    ) -> Result<Code, Failure> {
        let version = next.version;
        let silent = self.decree(session, picture, next).await?;
        if session.is_json {
            let told = json!({ of: count, "trust_version": version, "not_told": silent });
            show::json_pretty(&told);
        } else {
            show::note(&format!("{count} {of}, by trust version {version}"));
        }
        Ok(Code::Ok)
    }
}

/// The document in force, to look at: a host's, where one obeys a newer document than this context has. Others may
/// have signed it, fencers among them.
pub(crate) async fn in_force(session: &Session, picture: &Picture) -> Option<Trust> {
    let known = session.trust.clone()?;
    let of_row = |row: &crate::picture::Row| {
        let host = picture.view.host(&row.host)?;
        Some((host.host.trust_version?, row.agent.clone()))
    };
    let newest = picture.rows.iter().filter_map(of_row).max_by_key(|(version, _)| *version);
    let Some((_, agent)) = newest.filter(|(version, _)| *version > known.version) else {
        return Some(known);
    };
    // Whoever can't be asked leaves what is known.
    let signed = session.client.get::<Option<Signed<Trust>>>(&agent, "/v1/config/trust").await;
    let newer = signed.ok().flatten().and_then(|signed| Trust::recognise(&known, &signed).ok());
    Some(newer.filter(|newer| newer.version > known.version).unwrap_or(known))
}

/// A host that did not take a document.
pub(crate) struct Untold {
    /// Its name.
    pub(crate) host: String,
    /// Why, for people.
    pub(crate) why: String,
    /// True when it has answered, with a no.
    pub(crate) is_refused: bool,
}

/// Whoever was an operator and is none now is a stranger to every host.
fn no_more() -> Failure {
    let what = "the key of this context is no operator's of the cluster any more";
    Failure::new(Code::Refused, what).next("use an operator's context")
}

/// Which of these documents a quorum of its arbiters obeys.
async fn obeyed(session: &Session, seen: &[(Trust, Option<&Signed<Trust>>)]) -> Option<Trust> {
    let members = seen.iter().flat_map(|(trust, _)| &trust.arbiters);
    let arbiters: BTreeMap<PublicKey, String> =
        members.map(|slot| (slot.key, slot.url.clone())).collect();
    let asked = arbiters.into_iter().map(|(key, url)| async move {
        let arbiter = Endpoint::of_key(url, key);
        let health = session.client.get::<Health>(&arbiter, "/v1/health").await;
        Some((key, health.ok()?.trust_version?))
    });
    let obey: Vec<_> = stream::iter(asked).buffer_unordered(ASKED_AT_ONCE).collect().await;
    let obey: BTreeMap<PublicKey, u64> = obey.into_iter().flatten().collect();
    let is_obeyed = |trust: &&Trust| {
        let by = trust.arbiters.iter().filter(|slot| obey.get(&slot.key) == Some(&trust.version));
        by.count() >= trust.k as usize
    };
    let obeyed = seen.iter().map(|(trust, _)| trust).filter(is_obeyed);
    obeyed.max_by_key(|trust| trust.version).cloned()
}

fn is_forbidden(error: &CallError) -> bool {
    matches!(error.refusal(), Some(Refusal::Forbidden { .. }))
}

/// Gives the document to every host that is left; those that did not take it, with why.
async fn give(
    session: &Session,
    picture: &Picture,
    next: &Trust,
    signed: &Signed<Trust>,
) -> Vec<Untold> {
    let given = stream::iter(agents(picture, next)).map(|(name, agent)| async move {
        let path = "/v1/config/trust";
        let sent = session.client.send::<_, Option<IgnoredAny>>(Method::PUT, &agent, path, signed);
        let untold = |error: CallError| Untold {
            host: name,
            why: chain(&error),
            is_refused: error.refusal().is_some(),
        };
        sent.await.err().map(untold)
    });
    let mut silent: Vec<_> =
        given.buffer_unordered(ASKED_AT_ONCE).filter_map(std::future::ready).collect().await;
    silent.sort_by(|a: &Untold, b| a.host.cmp(&b.host));
    silent
}

/// The agents of the hosts on the roster that are known, with their names.
fn agents(picture: &Picture, trust: &Trust) -> Vec<(String, Endpoint)> {
    let roster = trust.roster_by_host();
    let rows = picture.rows.iter().filter(|row| roster.contains_key(&row.host));
    let named = rows.map(|row| {
        let name = picture.view.host(&row.host).map(|known| known.host.name.clone());
        (name.unwrap_or_else(|| row.host.to_string()), row.agent.clone())
    });
    named.collect()
}

/// Waits until a quorum of arbiters and a controller, if there is any, obey the document: what is
/// asked of the cluster before that may be answered by the one before.
async fn await_obedience(session: &Session, next: &Trust) -> Result<(), Failure> {
    // Those who take over from the lost are the only ones who can obey.
    let lost = next.succession.next.as_ref().filter(|next| next.recovers);
    let (members, k) = lost.map_or((&next.arbiters, next.k), |next| (&next.arbiters, next.k));
    let arbiters: Vec<Endpoint> =
        members.iter().map(|slot| Endpoint::of_key(slot.url.clone(), slot.key)).collect();
    let controllers: Vec<Endpoint> = next
        .peers
        .iter()
        .filter(|peer| peer.role == Role::Controller)
        .map(|peer| Endpoint::of_key(peer.url.clone(), peer.key))
        .collect();
    // A controller that is gone can't be waited for.
    let controllers_min = obeying(session, &controllers, 0).await.min(1);
    let arbiters_min = k as usize;
    let obeys = async {
        while obeying(session, &arbiters, next.version).await < arbiters_min
            || obeying(session, &controllers, next.version).await < controllers_min
        {
            tokio::time::sleep(OBEDIENCE_POLL).await;
        }
    };
    tokio::time::timeout(OBEDIENCE_MAX, obeys).await.map_err(|_| {
        let (version, seconds) = (next.version, OBEDIENCE_MAX.as_secs());
        let who = "no quorum of arbiters with a controller";
        let what = format!("{who} obeys trust version {version} after {seconds} s");
        Failure::new(Code::Unreachable, what).next("ostler bootstrap; it is safe to repeat")
    })
}

async fn obeying(session: &Session, services: &[Endpoint], version: u64) -> usize {
    let asked = services.iter().map(|service| async move {
        let health = session.client.get::<Health>(service, "/v1/health").await;
        health.is_ok_and(|health| health.trust_version >= Some(version))
    });
    let answers: Vec<bool> = stream::iter(asked).buffer_unordered(ASKED_AT_ONCE).collect().await;
    answers.into_iter().filter(|obeys| *obeys).count()
}
