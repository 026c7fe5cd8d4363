//! The client of a discovery server: create a cluster, register, list, leave.
//!
//! Speaks Flynn's protocol as its own clients do (409 is success). Of a list only what proves
//! itself is taken; what the server says about proofs is not looked at.

use std::fmt;
use std::str::FromStr;

use http::header::LOCATION;
use http::{HeaderValue, Method, Uri};
use protocol::signed::Signed;
use serde::de::DeserializeOwned;

use super::Found;
use super::record::{Departure, Instance};
use super::server::{PROOF, Wrapped};
use crate::client::{Answer, CallError, Client, Endpoint};

/// A cluster at a discovery server; whoever knows it may register and list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClusterUrl {
    /// `http://SERVER`.
    server: String,
    /// `/clusters/TOKEN`, perhaps with a prefix.
    path: String,
}

/// Opens a cluster at `server` (`http://SERVER`).
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
        Some(location) if location.starts_with('/') => {
            format!("{server}{location}").parse().map_err(bad)
        }
        Some(location) => location.parse().map_err(bad),
    }
}

impl ClusterUrl {
    /// The secret part.
    #[must_use]
    pub fn token(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Writes the client's own identity down, or refreshes it.
    pub async fn register(
        &self,
        client: &Client,
        name: &str,
        url: &str,
    ) -> Result<Instance, CallError> {
        let data = Instance::signed_by(client.identity(), self.token(), name, url);
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

    /// The hosts that prove themselves.
    pub async fn find(&self, client: &Client) -> Result<Vec<Found>, CallError> {
        let instances = self.list(client).await?;
        Ok(instances.into_iter().filter_map(|instance| self.found(instance)).collect())
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

    fn found(&self, instance: Instance) -> Option<Found> {
        let (host, key) = instance.prove(self.token())?;
        let Instance { name, url, .. } = instance;
        Some(Found { host: Some(host), key: Some(key), name, url, other_urls: Vec::new() })
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
        let uri: Uri = text.parse().map_err(|e| format!("{e}"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() {
            return Err("a discovery URL starts with http:// or https://".to_owned());
        }
        let (server, path) = split(&uri);
        match path.rsplit_once("/clusters/") {
            Some((_, token)) if !token.is_empty() && !token.contains('/') => {
                Ok(Self { server, path })
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
