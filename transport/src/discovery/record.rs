//! What is written down about a host at a discovery server, and the proof that the host wrote it.
//!
//! The fields are Flynn's, so that its clients can register and list; `host`, `key` and `proof`
//! are ours. A proof covers the cluster's token, so that it can't be carried to another cluster.

use protocol::id::HostId;
use protocol::signed::{Message, PublicKey, Signed};
use serde::{Deserialize, Serialize};

use super::Advert;
use crate::identity::Identity;

/// A host's entry in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Given by the server.
    #[serde(default)]
    pub id: String,
    /// The cluster's token.
    #[serde(default)]
    pub cluster_id: String,
    /// The version of whoever registered.
    #[serde(default)]
    pub flynn_version: String,
    /// Stored for Flynn's clients; nothing of ours looks at it.
    #[serde(default)]
    pub ssh_public_keys: Vec<SshKey>,
    /// Where the host's agent answers.
    pub url: String,
    /// What the host calls itself.
    #[serde(default)]
    pub name: String,
    /// When it was first written down, RFC 3339.
    #[serde(default)]
    pub created_at: String,
    /// The host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PublicKey>,
    /// The host's word for `url` and `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Signed<Registration>>,
    /// Drawn anew at each start of the host's agent: two machines with one key differ in it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub life: String,
    /// The host's proof that it knows the cluster's join secret; nothing to the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<String>,
    /// What the server thinks of the proof. Clients check for themselves.
    #[serde(default)]
    pub proven: bool,
    /// The server has heard two lives of this key in turns: a disk was copied with its key.
    #[serde(default, skip_serializing_if = "is_false")]
    pub twin: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// An SSH host key as Flynn's hosts send it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshKey {
    /// Such as `rsa`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Base64 of SSH's wire format.
    pub data: String,
}

/// What a host signs to be listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The cluster's token.
    pub cluster: String,
    /// Where its agent answers.
    pub url: String,
    /// What it calls itself.
    pub name: String,
    /// See [`Instance::life`].
    #[serde(default)]
    pub life: String,
}

impl Message for Registration {
    const DOMAIN: &'static str = "discovery-registration";
}

/// What a host signs to be listed no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// The cluster's token.
    pub cluster: String,
    /// The entry's id.
    pub instance: String,
}

impl Message for Departure {
    const DOMAIN: &'static str = "discovery-departure";
}

impl Instance {
    /// The entry with which `identity` asks to be listed.
    #[must_use]
    pub fn signed_by(identity: &Identity, cluster: &str, advert: &Advert) -> Self {
        let Advert { name, url, life } = advert;
        let registration = Registration {
            cluster: cluster.to_owned(),
            url: url.to_owned(),
            name: name.to_owned(),
            life: life.to_owned(),
        };
        Self {
            id: String::new(),
            cluster_id: String::new(),
            flynn_version: concat!("ostler-", env!("CARGO_PKG_VERSION")).to_owned(),
            ssh_public_keys: Vec::new(),
            url: url.to_owned(),
            name: name.to_owned(),
            created_at: String::new(),
            host: Some(identity.host_id()),
            key: Some(identity.public()),
            proof: Some(Signed::seal(&registration, identity.secret())),
            life: life.to_owned(),
            join: None,
            proven: false,
            twin: false,
        }
    }

    /// The host and key that this entry proves for `cluster`; `None` when it proves nothing.
    #[must_use]
    pub fn prove(&self, cluster: &str) -> Option<(HostId, PublicKey)> {
        let (host, key, proof) = (self.host.as_ref()?, self.key?, self.proof.as_ref()?);
        let said = proof.open().ok()?;
        let is_own_word = proof.key() == key && HostId::of(&key) == *host;
        let is_this = said.cluster == cluster
            && said.url == self.url
            && said.name == self.name
            && said.life == self.life;
        (is_own_word && is_this).then(|| (host.clone(), key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_proves_its_host_for_its_cluster_and_words_alone() {
        let identity = Identity::ephemeral();
        let advert = Advert::new("host1", "https://10.0.0.1:1");
        let entry = Instance::signed_by(&identity, "c1", &advert);
        assert_eq!(entry.prove("c1"), Some((identity.host_id(), identity.public())));
        assert_eq!(entry.prove("c2"), None, "carried to another cluster");
        let moved = Instance { url: "https://10.0.0.2:1".into(), ..entry.clone() };
        assert_eq!(moved.prove("c1"), None, "with another address");
        let renamed = Instance { name: "host2".into(), ..entry.clone() };
        assert_eq!(renamed.prove("c1"), None, "with another name");
        let revived = Instance { life: "another".into(), ..entry.clone() };
        assert_eq!(revived.prove("c1"), None, "with another life");
        let other = Identity::ephemeral();
        let stolen = Instance { host: Some(other.host_id()), ..entry.clone() };
        assert_eq!(stolen.prove("c1"), None, "in another host's name");
        let unsigned = Instance { proof: None, ..entry };
        assert_eq!(unsigned.prove("c1"), None, "without a proof");
    }
}
