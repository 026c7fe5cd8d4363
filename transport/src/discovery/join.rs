//! The join secret of a cluster: who knows it may be taken in, who only knows the URL may not.
//!
//! ```text
//! http://SERVER/clusters/TOKEN#join=SECRET      the fragment never leaves a client
//! ```
//!
//! The secret is the seed of an Ed25519 key. A host proves that it knows the secret by a signature
//! with that key over the cluster's token and its own host id, so a proof that is read off a list
//! is of no use to another host or in another cluster. Whoever is only to tell hosts from strangers,
//! as a monitor is, gets the key's public half (`#join-key=KEY`) and can prove nothing itself.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use protocol::id::HostId;
use protocol::signed::{Message, PublicKey, SecretKey, Signed};
use serde::{Deserialize, Serialize};

use crate::identity::Identity;

/// What only a cluster's own hosts and its operator know. It is never printed but by [`text`].
///
/// [`text`]: JoinSecret::text
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct JoinSecret([u8; 32]);

/// What is signed with the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Joining {
    cluster: String,
    host: HostId,
}

impl Message for Joining {
    const DOMAIN: &'static str = "discovery-joining";
}

impl JoinSecret {
    /// A new one.
    #[must_use]
    pub fn fresh() -> Self {
        Self(Identity::ephemeral().secret().seed())
    }

    /// The secret itself, as it stands in a URL.
    #[must_use]
    pub fn text(&self) -> String {
        BASE64URL_NOPAD.encode(&self.0)
    }

    /// A host's proof that it knows the secret.
    #[must_use]
    pub fn prove(&self, cluster: &str, host: &HostId) -> String {
        let sealed = self.seal(cluster, host);
        // The rest of a signed message is known to whoever can verify it.
        sealed.rsplit('.').next().unwrap_or_default().to_owned()
    }

    /// With which a proof is verified and nothing proved.
    #[must_use]
    pub fn key(&self) -> PublicKey {
        self.pair().public()
    }

    fn seal(&self, cluster: &str, host: &HostId) -> String {
        Signed::seal(&Joining::of(cluster, host), &self.pair()).to_string()
    }

    fn pair(&self) -> SecretKey {
        SecretKey::from_seed(self.0)
    }
}

impl Joining {
    fn of(cluster: &str, host: &HostId) -> Self {
        Self { cluster: cluster.to_owned(), host: host.clone() }
    }
}

/// Whether this is the proof of that host in that cluster.
#[must_use]
pub(super) fn is_joined(key: PublicKey, cluster: &str, host: &HostId, proof: &str) -> bool {
    let joining = Joining::of(cluster, host);
    let payload = serde_json::to_vec(&joining).expect("two texts are always valid JSON");
    let signed = format!("{}.{key}.{proof}", BASE64URL_NOPAD.encode(&payload));
    let signed = signed.parse::<Signed<Joining>>();
    signed.and_then(|signed| signed.open()).is_ok_and(|said| said == joining)
}

impl FromStr for JoinSecret {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok();
        let seed: Option<[u8; 32]> = bytes.and_then(|bytes| bytes.try_into().ok());
        // The text is not repeated: an error may be logged.
        seed.map(Self).ok_or_else(|| "the join secret is incomplete; copy the whole URL".to_owned())
    }
}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_secret_cluster_and_host_alone() {
        let (secret, other) = (JoinSecret::fresh(), JoinSecret::fresh());
        let (host, stranger): (HostId, HostId) = ("h1".parse().unwrap(), "h2".parse().unwrap());
        let proof = secret.prove("c", &host);
        let holds = |secret: &JoinSecret, cluster, host, proof: &str| {
            is_joined(secret.key(), cluster, host, proof)
        };
        assert!(holds(&secret, "c", &host, &proof));
        assert!(!holds(&other, "c", &host, &proof), "with another secret");
        assert!(!holds(&secret, "d", &host, &proof), "in another cluster");
        assert!(!holds(&secret, "c", &stranger, &proof), "copied by another host");
        for nonsense in ["", ".", "AAAA", "a.b.c", &proof[1..]] {
            assert!(!holds(&secret, "c", &host, nonsense), "{nonsense:?}");
        }
    }

    #[test]
    fn a_secret_survives_its_text_and_shows_itself_nowhere_else() {
        let secret = JoinSecret::fresh();
        assert_eq!(secret.text().parse(), Ok(secret.clone()));
        assert!(!format!("{secret:?}").contains(&secret.text()));
        let error = "short".parse::<JoinSecret>().unwrap_err();
        assert!(!error.contains("short"), "{error}");
    }
}
