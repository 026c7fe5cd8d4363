//! The trust document on its way: found in the context or on hosts, signed anew if it must, given.

use futures_util::{StreamExt as _, stream};
use protocol::id::ClusterId;
use protocol::refusal::Refusal;
use protocol::signed::{PublicKey, Signed};
use protocol::trust::{Trust, TrustError};
use transport::discovery::Source;
use transport::{CallError, Identity, with_causes};

use super::{ASKED_AT_ONCE, Ready, Work, agent, done_or_already, failure};
use crate::charter::{Member, Next, next_trust};
use crate::error::{BootstrapError, Kind};
use crate::event::{Step, StepEvent, StepState};

/// The newest document that is known.
pub(crate) struct InForce {
    pub(crate) signed: Signed<Trust>,
    pub(crate) trust: Trust,
}

/// The document that everybody is to obey.
pub(crate) struct Signature {
    pub(crate) signed: Signed<Trust>,
    pub(crate) trust: Trust,
    pub(crate) is_new: bool,
}

impl<P: FnMut(StepEvent) + Send> Work<P> {
    /// The newest document among the context's and the hosts'. A host that obeys a document of
    /// another cluster, or one without our key, ends bootstrap before anything is changed.
    pub(crate) async fn find_trust(
        &mut self,
        hosts: &[Ready],
    ) -> Result<Option<InForce>, BootstrapError> {
        let kept = self.options.context.trust().map_err(|error| unkept(&error))?;
        let mut newest = kept.map(|(signed, trust)| InForce { signed, trust });
        let client = &self.client;
        let having: Vec<_> =
            hosts.iter().filter(|ready| ready.host.trust_version.is_some()).cloned().collect();
        let asked = stream::iter(having)
            .map(|ready| async move { (agent::trust(client, &ready.endpoint).await, ready) });
        let mut answers: Vec<_> = asked.buffer_unordered(ASKED_AT_ONCE).collect().await;
        answers.sort_by(|(_, a), (_, b)| a.host.id.cmp(&b.host.id));
        let operator = self.options.operator.public();
        let mut foreign = Vec::new();
        let known = newest.as_ref().map(|kept| kept.trust.clone());
        for (answer, Ready { host, .. }) in answers {
            let opened = answer.map_err(|e| with_causes(&e));
            match opened.and_then(|signed| open(signed, operator, known.as_ref())) {
                Err(why) => foreign.push(format!("{}: {why}", host.name)),
                Ok(theirs) => match &newest {
                    Some(ours) if ours.trust.cluster != theirs.trust.cluster => foreign
                        .push(format!("{} obeys cluster {}", host.name, theirs.trust.cluster)),
                    Some(ours) if ours.trust.version >= theirs.trust.version => {}
                    _ => newest = Some(theirs),
                },
            }
        }
        if foreign.is_empty() { Ok(newest) } else { Err(foreign_hosts(foreign)) }
    }

    /// The step `sign-trust`.
    pub(crate) async fn sign_trust(
        &mut self,
        hosts: &[Ready],
        in_force: Option<InForce>,
        members: &[Member],
    ) -> Result<Signature, BootstrapError> {
        self.say(Step::SignTrust, StepState::Start, "who is in the cluster");
        let operator = self.options.operator.clone();
        let keys: Vec<PublicKey> = hosts.iter().map(|ready| ready.host.key).collect();
        let cluster = fresh_cluster();
        let old = in_force.as_ref().map(|in_force| &in_force.trust);
        let liars = self.options.layout.map_or(0, |layout| layout.liars);
        let next = next_trust(old, (&cluster, liars), operator.public(), members, &keys);
        let signature = match (next, in_force) {
            (Next::Same, Some(InForce { signed, trust })) => {
                Signature { signed, trust, is_new: false }
            }
            (Next::Same, None) => unreachable!("the first document is always new"),
            (Next::New(trust), _) => {
                trust.validate().map_err(|error| {
                    let next = "choose another layout";
                    failure(Step::SignTrust, Kind::Failed, error.to_string(), next)
                })?;
                let signed = Signed::seal(trust.as_ref(), operator.secret());
                Signature { signed, trust: *trust, is_new: true }
            }
        };
        // Kept before anybody obeys it: should we die now, the next try gives this very document.
        let context = &self.options.context;
        let sources: Vec<_> = self.options.sources.iter().map(Source::full).collect();
        context
            .save_trust(&signature.signed)
            .and_then(|()| context.save_sources(&sources))
            .map_err(|error| unkept(&error))?;
        let detail = describe(&signature.trust);
        self.say(Step::SignTrust, done_or_already(signature.is_new), &detail);
        Ok(signature)
    }

    /// The step `give-trust`. True when some host did not obey this version before.
    pub(crate) async fn give_trust(
        &mut self,
        hosts: &[Ready],
        signature: &Signature,
    ) -> Result<bool, BootstrapError> {
        let Signature { signed, trust, .. } = signature;
        let version = trust.version;
        self.say(Step::GiveTrust, StepState::Start, &format!("version {version} to each host"));
        let client = &self.client;
        let given = stream::iter(hosts.to_vec()).map(|ready| async move {
            (agent::put_trust(client, &ready.endpoint, signed).await, ready)
        });
        let answers: Vec<_> = given.buffer_unordered(ASKED_AT_ONCE).collect().await;
        let mut failed: Vec<(String, bool)> = answers
            .iter()
            .filter_map(|(answer, ready)| Some((answer.as_ref().err()?, ready)))
            .map(|(error, Ready { host, .. })| {
                (format!("{}: {}", host.name, with_causes(error)), is_no(error))
            })
            .collect();
        failed.sort();
        if !failed.is_empty() {
            let is_refused = failed.iter().any(|(_, is_no)| *is_no);
            let kind = if is_refused { Kind::Refused } else { Kind::TimedOut };
            let what = format!(
                "{} of {} hosts did not take trust version {version}",
                failed.len(),
                hosts.len()
            );
            let next = "see why there, then run bootstrap again";
            let reasons = failed.into_iter().map(|(reason, _)| reason).collect();
            return Err(BootstrapError { reasons, ..failure(Step::GiveTrust, kind, what, next) });
        }
        let is_changed = hosts.iter().any(|ready| ready.host.trust_version != Some(version));
        let detail = format!("{} hosts obey version {version}", hosts.len());
        self.say(Step::GiveTrust, done_or_already(is_changed), &detail);
        Ok(is_changed)
    }
}

fn is_no(error: &CallError) -> bool {
    matches!(error.refusal(), Some(Refusal::Forbidden { .. } | Refusal::Invalid { .. }))
        || error.problem().is_some_and(|problem| problem.status < 500)
}

/// A document that a host shows. Where one is known, only an operator whom it names is believed: any one host
/// may lie, and what it shows would be signed anew with one operator more.
fn open(
    signed: Signed<Trust>,
    operator: PublicKey,
    known: Option<&Trust>,
) -> Result<InForce, String> {
    let trust = match known {
        Some(known) => match Trust::recognise(known, &signed) {
            Err(TrustError::OtherCluster { theirs, .. }) => {
                return Err(format!("obeys cluster {theirs}"));
            }
            trust => trust.map_err(|error| error.to_string())?,
        },
        None => signed.open().map_err(|error| error.to_string())?,
    };
    if !trust.operators.contains(&operator) {
        return Err(format!("obeys cluster {}, where our key is no operator's", trust.cluster));
    }
    Ok(InForce { signed, trust })
}

/// A name that no other cluster has: 40 bits of a fresh key, in base 32.
fn fresh_cluster() -> ClusterId {
    let id = Identity::ephemeral().host_id();
    ClusterId::new(format!("c-{}", &id.as_str()[1..9])).expect("base 32 makes a valid name")
}

fn describe(trust: &Trust) -> String {
    format!(
        "cluster {} version {}: {} hosts, {} arbiters (k = {}), {} monitors and controllers",
        trust.cluster,
        trust.version,
        trust.roster.len(),
        trust.arbiters.len(),
        trust.k,
        trust.peers.len()
    )
}

pub(crate) fn foreign_hosts(reasons: Vec<String>) -> BootstrapError {
    let what = match reasons.len() {
        1 => "a host belongs to another cluster".to_owned(),
        n => format!("{n} hosts belong to another cluster"),
    };
    let next = "use that cluster's context (--context), or leave these hosts out; \
                nothing was changed on them";
    BootstrapError { reasons, ..failure(Step::CheckHosts, Kind::Refused, what, next) }
}

fn unkept(error: &crate::ContextError) -> BootstrapError {
    let next = "mend the context folder, or choose another with --context";
    failure(Step::SignTrust, Kind::Failed, with_causes(error), next)
}
