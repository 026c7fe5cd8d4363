//! The client of a discovery server: create a cluster, register, list, leave.
//!
//! Speaks Flynn's protocol as its own clients do (409 is success). Of a list only what proves
//! itself is taken; what the server says about proofs is not looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use http::header::LOCATION;
use http::{HeaderValue, Method, Uri};
use protocol::id::HostId;
use protocol::signed::{PublicKey, Signed};
use serde::de::DeserializeOwned;

use super::join::{JoinSecret, is_joined};
use super::record::{Departure, Instance};
use super::server::{PROOF, Wrapped};
use super::{Advert, Found};
use crate::call_error::CallError;
use crate::client::{Answer, Client};
use crate::endpoint::Endpoint;

/// What the fragment begins with that carries the join secret.
const JOIN: &str = "join=";

/// What it begins with for those who only verify.
const JOIN_KEY: &str = "join-key=";

/// A cluster at a discovery server; whoever knows it may register and list. It is shown without
/// the join secret; [`ClusterUrl::full`] is for where the secret is meant to go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClusterUrl {
    /// `http://SERVER`.
    server: String,
    /// `/clusters/TOKEN`, perhaps with a prefix.
    path: String,
    /// What the cluster's own hosts know, when the URL told it.
    join: Option<JoinSecret>,
    /// What tells hosts from strangers, when the URL told that or the secret.
    join_key: Option<PublicKey>,
}

/// What a look at a cluster's list found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// The hosts that prove themselves.
    pub hosts: Vec<Found>,
    /// Entries that do not. Nobody of ours ever contacts them.
    pub unproven: Vec<Unproven>,
    /// Machines that have one key between them.
    pub twins: Vec<Twins>,
}

/// An entry that proves nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unproven {
    /// What it calls itself.
    pub name: String,
    /// Where it says it answers.
    pub url: String,
    /// What is missing.
    pub why: Doubt,
}

/// Why an entry is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Doubt {
    /// It is not signed by a host's key, or for other words.
    #[error("no host's key has signed it")]
    Unsigned,
    /// Whoever registered does not say that it knows the join secret.
    #[error(
        "it does not know the join secret: start its agent with the whole URL, #join= included"
    )]
    NotJoined,
    /// Whoever registered knows another secret, or copied somebody's proof.
    #[error("it knows another join secret than ours")]
    WrongSecret,
}

/// One key on several machines: a disk was copied with the key on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twins {
    /// The host id they share.
    pub host: HostId,
    /// Name and address of each, in the order of their addresses.
    pub machines: Vec<(String, String)>,
}

impl fmt::Display for Twins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.machines.iter().map(|(name, _)| name.as_str()).collect();
        let at: Vec<String> =
            self.machines.iter().map(|(name, url)| format!("{name} at {url}")).collect();
        write!(
            f,
            "{} have one key (host {}): {}; on the copy, stop the agent, remove agent.key and start it again",
            names.join(" and "),
            self.host.short(),
            at.join(", ")
        )
    }
}

/// Opens a cluster at `server` (`http://SERVER`), with a join secret that the server never learns.
pub async fn create_cluster(client: &Client, server: &str) -> Result<ClusterUrl, CallError> {
    let (server, prefix) = match server.parse::<Uri>() {
        Ok(uri) if uri.scheme().is_some() && uri.authority().is_some() => split(&uri),
        // The client will say what is wrong with it.
        _ => (server.to_owned(), String::new()),
    };
    let to = Endpoint::anyone(&server);
    let path = format!("{prefix}/clusters");
    let answer = client.exchange(Method::POST, &to, &path, Vec::new(), &()).await?;
    let location = answer.headers.get(LOCATION).and_then(|l| l.to_str().ok()).map(str::to_owned);
    let (call, status) = (answer.call.clone(), answer.status);
    answer.judge()?;
    let bad = |why: String| CallError::BadAnswer { call, status, why };
    match location {
        None => Err(bad("it has no Location header".to_owned())),
        Some(location) => {
            let is_path = location.starts_with('/');
            let url = if is_path { format!("{server}{location}") } else { location };
            let url: ClusterUrl = url.parse().map_err(bad)?;
            let secret = JoinSecret::fresh();
            Ok(ClusterUrl { join_key: Some(secret.key()), join: Some(secret), ..url })
        }
    }
}

impl ClusterUrl {
    /// The secret part.
    #[must_use]
    pub fn token(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// The join secret, when the URL told it.
    #[must_use]
    pub fn join(&self) -> Option<&JoinSecret> {
        self.join.as_ref()
    }

    /// The key with which hosts are told from strangers; without it everybody counts.
    #[must_use]
    pub fn join_key(&self) -> Option<PublicKey> {
        self.join_key
    }

    /// The same cluster for somebody who is to tell hosts from strangers and to be none.
    #[must_use]
    pub fn to_verify(&self) -> Self {
        Self { join: None, ..self.clone() }
    }

    /// The same cluster for somebody who was told nothing.
    #[must_use]
    pub fn without_join(&self) -> Self {
        Self { join: None, join_key: None, ..self.clone() }
    }

    /// The whole URL, secret included: for files of ours and for the person who asked for it.
    #[must_use]
    pub fn full(&self) -> String {
        match (&self.join, &self.join_key) {
            (Some(secret), _) => format!("{self}#{JOIN}{}", secret.text()),
            (None, Some(key)) => format!("{self}#{JOIN_KEY}{key}"),
            (None, None) => self.to_string(),
        }
    }

    /// A host's proof that it knows the join secret, when we do.
    #[must_use]
    pub fn join_proof(&self, host: &HostId) -> Option<String> {
        self.join.as_ref().map(|secret| secret.prove(self.token(), host))
    }

    /// Whether a host's proof is one. Without a key everybody counts.
    pub fn judge_join(&self, host: &HostId, proof: Option<&str>) -> Result<(), Doubt> {
        match (self.join_key, proof) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(Doubt::NotJoined),
            (Some(key), Some(proof)) if is_joined(key, self.token(), host, proof) => Ok(()),
            (Some(_), Some(_)) => Err(Doubt::WrongSecret),
        }
    }

    /// The host that an entry proves to be of this cluster, and its key.
    pub fn judge(&self, instance: &Instance) -> Result<(HostId, PublicKey), Doubt> {
        let (host, key) = instance.prove(self.token()).ok_or(Doubt::Unsigned)?;
        self.judge_join(&host, instance.join.as_deref())?;
        Ok((host, key))
    }

    /// Writes the client's own identity down, or refreshes it.
    pub async fn register(&self, client: &Client, advert: &Advert) -> Result<Instance, CallError> {
        let identity = client.identity();
        let join = self.join_proof(&identity.host_id());
        let data = Instance { join, ..Instance::signed_by(identity, self.token(), advert) };
        let path = format!("{}/instances", self.path);
        let body = Wrapped { data };
        let mut answer =
            client.exchange(Method::POST, &self.at(), &path, Vec::new(), &body).await?;
        // 409 is Flynn's "there already", and carries the entry as a success does.
        if answer.status == 409 {
            answer.status = 200;
        }
        unwrap(answer)
    }

    /// All that is written down, proven or not.
    pub async fn list(&self, client: &Client) -> Result<Vec<Instance>, CallError> {
        let path = format!("{}/instances", self.path);
        let answer = client.exchange(Method::GET, &self.at(), &path, Vec::new(), &()).await?;
        let values: Vec<serde_json::Value> = unwrap(answer)?;
        // One entry that makes no sense must not hide the others.
        Ok(values.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect())
    }

    /// Who proves to be of this cluster, and who does not.
    pub async fn find(&self, client: &Client) -> Result<Listed, CallError> {
        Ok(self.sort(self.list(client).await?))
    }

    /// Takes the client's own entry off the list.
    pub async fn withdraw(&self, client: &Client, instance: &str) -> Result<(), CallError> {
        let (cluster, id) = (self.token().to_owned(), instance.to_owned());
        let departure = Departure { cluster, instance: id };
        let word = Signed::seal(&departure, client.identity().secret()).to_string();
        let word = HeaderValue::from_str(&word).expect("base64 is a valid header");
        let path = format!("{}/instances/{instance}", self.path);
        let headers = vec![(PROOF, word)];
        client.exchange(Method::DELETE, &self.at(), &path, headers, &()).await?.judge()?;
        Ok(())
    }

    fn sort(&self, instances: Vec<Instance>) -> Listed {
        let mut listed = Listed::default();
        let mut twins: BTreeMap<HostId, BTreeSet<(String, String)>> = BTreeMap::new();
        for instance in instances {
            let judged = self.judge(&instance);
            let Instance { name, url, twin, .. } = instance;
            match judged {
                Err(why) => listed.unproven.push(Unproven { name, url, why }),
                Ok((host, key)) => {
                    if twin {
                        twins.entry(host.clone()).or_default().insert((url.clone(), name.clone()));
                    }
                    let (host, key) = (Some(host), Some(key));
                    listed.hosts.push(Found { host, key, name, url, other_urls: Vec::new() });
                }
            }
        }
        listed.twins = twins
            .into_iter()
            .filter(|(_, machines)| machines.len() > 1)
            .map(|(host, machines)| Twins {
                host,
                machines: machines.into_iter().map(|(url, name)| (name, url)).collect(),
            })
            .collect();
        listed
    }

    fn at(&self) -> Endpoint {
        Endpoint::anyone(&self.server)
    }
}

fn unwrap<T: DeserializeOwned>(answer: Answer) -> Result<T, CallError> {
    let (call, status) = (answer.call.clone(), answer.status);
    let body = answer.judge()?.body;
    match serde_json::from_slice::<Wrapped<T>>(&body) {
        Ok(wrapped) => Ok(wrapped.data),
        Err(e) => Err(CallError::BadAnswer { call, status, why: e.to_string() }),
    }
}

fn split(uri: &Uri) -> (String, String) {
    let scheme = uri.scheme_str().unwrap_or_default();
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    (format!("{scheme}://{authority}"), uri.path().trim_end_matches('/').to_owned())
}

impl FromStr for ClusterUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (text, fragment) = match text.split_once('#') {
            Some((text, fragment)) => (text, Some(fragment)),
            None => (text, None),
        };
        let join_key = fragment.and_then(|fragment| fragment.strip_prefix(JOIN_KEY));
        let join_key: Option<PublicKey> = join_key.map(str::parse).transpose()?;
        let join: Option<JoinSecret> = match (fragment, join_key) {
            (Some(fragment), None) => {
                Some(fragment.strip_prefix(JOIN).unwrap_or_default().parse()?)
            }
            _ => None,
        };
        let join_key = join.as_ref().map(JoinSecret::key).or(join_key);
        let uri: Uri = text.parse().map_err(|e| format!("{e}"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() {
            return Err("a discovery URL starts with http:// or https://".to_owned());
        }
        let (server, path) = split(&uri);
        match path.rsplit_once("/clusters/") {
            // Blanks and letters of other scripts are lost on the way from one person to another.
            Some((_, token))
                if !token.is_empty()
                    && !token.contains('/')
                    && path.chars().all(|c| c.is_ascii_graphic()) =>
            {
                Ok(Self { server, path, join, join_key })
            }
            _ => Err("a discovery URL ends in /clusters/TOKEN".to_owned()),
        }
    }
}

impl fmt::Display for ClusterUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.server, self.path)
    }
}
