//! What bootstrap asks of agents and services, one function a question.
//!
//! Decides how an error of the transport is named for people ([`Unready`]), and nothing else.

use std::time::Duration;

use protocol::api::{Health, JobList, PutJob, ViewReply};
use protocol::host::Host;
use protocol::id::JobId;
use protocol::job::Job;
use protocol::refusal::Refusal;
use protocol::signed::{PublicKey, Signed};
use protocol::trust::Trust;
use serde::Deserialize;
use serde::de::IgnoredAny;
use transport::call_error::NotSent;
use transport::client::Patience;
use transport::{CallError, Client, Clock, Endpoint, Method, with_causes};

use crate::verdict::{Answer, Unready, judge};

/// How long one host may take to answer a probe. A host that is well answers in milliseconds.
const PROBE_MS_MAX: u64 = 2_000;

/// How much of a failed service's log is shown.
const LOG_BYTES_MAX: usize = 4096;

/// An agent's health, with what its wall clock shows and what tells it from a copy of itself.
#[derive(Deserialize)]
struct TimedHealth {
    #[serde(flatten)]
    health: Health,
    #[serde(default)]
    wall_ms: Option<u64>,
    #[serde(default)]
    life: Option<String>,
}

fn ms_between(ours: u64, theirs: u64) -> i64 {
    let apart = i64::try_from(ours.abs_diff(theirs)).unwrap_or(i64::MAX);
    if theirs >= ours { apart } else { -apart }
}

/// Asks one host whether it is ready. `expected` is the key that discovery proved, if it did.
pub(crate) async fn probe(
    client: &Client,
    to: &Endpoint,
    expected: Option<&PublicKey>,
) -> Result<Answer, Unready> {
    let limit = Duration::from_millis(PROBE_MS_MAX);
    let client = client.with_patience(Patience { connect: limit, call: limit });
    let asked = async {
        let TimedHealth { health, wall_ms, life } = client.get(to, "/v1/health").await?;
        let ahead_ms = wall_ms.map(|theirs| ms_between(Clock::real().now().wall_ms, theirs));
        let host: Host = client.get(to, "/v1/host").await?;
        Ok::<_, CallError>((health, host, ahead_ms, life))
    };
    let (health, host, clock_ahead_ms, life) = match tokio::time::timeout(limit, asked).await {
        Ok(answer) => answer.map_err(|error| unready(&error))?,
        Err(_) => return Err(Unready::TimedOut { after_ms: PROBE_MS_MAX }),
    };
    let answer = Answer { url: to.url.clone(), health, host, clock_ahead_ms, life };
    judge(expected, &answer)?;
    Ok(answer)
}

/// What an agent drew when it started; older ones have drawn nothing.
pub(crate) async fn life(client: &Client, to: &Endpoint) -> Result<Option<String>, CallError> {
    Ok(client.get::<TimedHealth>(to, "/v1/health").await?.life)
}

/// The health of any role.
pub(crate) async fn health(client: &Client, to: &Endpoint) -> Result<Health, String> {
    let client = client.with_deadline(Duration::from_millis(PROBE_MS_MAX));
    client.get(to, "/v1/health").await.map_err(|error| with_causes(&error))
}

/// A monitor's view.
pub(crate) async fn view(client: &Client, to: &Endpoint) -> Result<ViewReply, String> {
    let client = client.with_deadline(Duration::from_millis(PROBE_MS_MAX));
    client.get(to, "/v1/view").await.map_err(|error| with_causes(&error))
}

/// Every job of a host.
pub(crate) async fn jobs(client: &Client, to: &Endpoint) -> Result<Vec<Job>, CallError> {
    Ok(client.get::<JobList>(to, "/v1/jobs").await?.jobs)
}

/// One job of a host.
pub(crate) async fn job(client: &Client, to: &Endpoint, id: &JobId) -> Result<Job, CallError> {
    client.get(to, &format!("/v1/jobs/{id}")).await
}

/// Asks a host to take a job.
pub(crate) async fn put_job(
    client: &Client,
    to: &Endpoint,
    id: &JobId,
    put: &PutJob,
) -> Result<Job, CallError> {
    Ok(client.send(Method::PUT, to, &format!("/v1/jobs/{id}"), put).await?.body)
}

/// The last lines of a service's log, if they can be had.
pub(crate) async fn log_tail(client: &Client, to: &Endpoint, id: &JobId) -> Option<String> {
    let client = client.with_deadline(Duration::from_millis(PROBE_MS_MAX));
    let path = format!("/v1/jobs/{id}/log?tail={LOG_BYTES_MAX}");
    let bytes = client.get_bytes(to, &path, 2 * LOG_BYTES_MAX).await.ok()?;
    let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
    (!text.is_empty()).then_some(text)
}

/// The trust document a host obeys.
pub(crate) async fn trust(client: &Client, to: &Endpoint) -> Result<Signed<Trust>, CallError> {
    client.get(to, "/v1/config/trust").await
}

/// Gives a host a trust document; giving the same again is fine.
pub(crate) async fn put_trust(
    client: &Client,
    to: &Endpoint,
    trust: &Signed<Trust>,
) -> Result<(), CallError> {
    let sent = client.send::<_, Option<IgnoredAny>>(Method::PUT, to, "/v1/config/trust", trust);
    sent.await.map(|_| ())
}

/// What an error says about a host.
pub(crate) fn unready(error: &CallError) -> Unready {
    match error {
        CallError::NotSent { source: NotSent::TimedOut(after_ms), .. } => {
            Unready::TimedOut { after_ms: *after_ms }
        }
        CallError::NotSent { source: NotSent::Connect(io), .. }
            if io.kind() == std::io::ErrorKind::ConnectionRefused =>
        {
            Unready::Refused
        }
        CallError::NotSent { source: source @ NotSent::WrongKey { .. }, .. } => {
            Unready::WrongKey { why: source.to_string() }
        }
        CallError::Problem { problem, .. } if is_foreign(error) => {
            Unready::OtherCluster { why: problem.detail.clone() }
        }
        CallError::BadAnswer { .. } | CallError::Problem { .. } => {
            Unready::Nonsense { why: with_causes(error) }
        }
        CallError::NotSent { .. } | CallError::Ambiguous { .. } => {
            Unready::Unreachable { why: with_causes(error) }
        }
    }
}

/// True when the other side knows our key and does not believe it.
pub(crate) fn is_foreign(error: &CallError) -> bool {
    matches!(error.refusal(), Some(Refusal::Forbidden { .. }))
}
