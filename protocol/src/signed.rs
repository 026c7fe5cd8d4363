//! Keys, and messages that prove who said them whoever carries them.
//!
//! A [`Signed`] message keeps the exact bytes that were signed, and is parsed only after its
//! signature held. The signature covers a domain (`ostler/1/<message>`) so that no message can be
//! passed off as another. Ed25519 by RFC 8032, verified strictly.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD as B64;
use ed25519_dalek::{Signer as _, SigningKey};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

mod memo;

pub use memo::remember_signatures;

/// A message that may be signed.
pub trait Message: Serialize + DeserializeOwned {
    /// What the message is called in the bytes that are signed.
    const DOMAIN: &'static str;
}

/// Why signed bytes were not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    /// The text is not `payload.key.signature` in base64url.
    #[error("not a signed {domain}: {why}")]
    Malformed {
        /// The kind of message expected.
        domain: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The signature is not by the key it names, or covers other bytes.
    #[error("signature on {domain} does not hold for key {key}")]
    BadSignature {
        /// The kind of message expected.
        domain: &'static str,
        /// The key it claims.
        key: PublicKey,
    },
}

/// SHA-256 of some bytes, as lower-case hex on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(!try_from, !into, transparent)]
pub struct Digest(#[schemars(with = "String", regex(pattern = "^[0-9a-fA-F]{64}$"))] [u8; 32]);

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of a value's JSON with its fields in declaration order.
    ///
    /// # Panics
    /// When `T` cannot be written as JSON, which none of our nouns can cause.
    #[must_use]
    pub fn of_json<T: Serialize>(value: &T) -> Self {
        Self::of(&serde_json::to_vec(value).expect("our nouns are always valid JSON"))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .map_err(|e| format!("digest is not hex: {e}"))?;
        bytes
            .try_into()
            .map(Self)
            .map_err(|b: Vec<u8>| format!("digest has {} bytes, not 32", b.len()))
    }
}

impl FromStr for Digest {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::try_from(text.to_owned())
    }
}

/// An Ed25519 public key; base64url without padding on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(!try_from, !into, transparent)]
pub struct PublicKey(#[schemars(with = "String", regex(pattern = "^[A-Za-z0-9_-]{43}$"))] [u8; 32]);

impl PublicKey {
    /// Takes 32 raw bytes as a key, if they are a point on the curve.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, String> {
        memo::key_of(&bytes).ok_or("not an Ed25519 key: it is no point on the curve")?;
        Ok(Self(bytes))
    }

    /// The raw key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&B64.encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        key.to_string()
    }
}

impl TryFrom<String> for PublicKey {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let bytes =
            B64.decode(text.as_bytes()).map_err(|e| format!("key is not base64url: {e}"))?;
        let bytes =
            bytes.try_into().map_err(|b: Vec<u8>| format!("key has {} bytes, not 32", b.len()))?;
        Self::from_bytes(bytes)
    }
}

impl FromStr for PublicKey {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::try_from(text.to_owned())
    }
}

/// An Ed25519 private key. It is never serialised by this crate and prints as its public half.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// The key of these 32 secret bytes; the caller brings the randomness.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// The 32 secret bytes, for the one who stores the key.
    #[must_use]
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public())
    }
}

/// A `T` as somebody signed it: `payload.key.signature`, each base64url. Not yet believed:
/// [`Signed::open`] checks the signature, the caller checks that the key may say it.
pub struct Signed<T> {
    payload: Vec<u8>,
    key: PublicKey,
    signature: [u8; 64],
    message: PhantomData<fn() -> T>,
}

impl<T: Message> Signed<T> {
    /// Signs a message.
    ///
    /// # Panics
    /// When `T` cannot be written as JSON, which none of our messages can cause.
    #[must_use]
    pub fn seal(message: &T, key: &SecretKey) -> Self {
        let payload = serde_json::to_vec(message).expect("our messages are always valid JSON");
        let signature = key.0.sign(&signed_bytes(T::DOMAIN, &payload)).to_bytes();
        Self { payload, key: key.public(), signature, message: PhantomData }
    }

    /// Checks the signature and then parses. Whether [`Signed::key`] may say this is the
    /// caller's question.
    pub fn open(&self) -> Result<T, SignedError> {
        if !memo::holds(&self.key.0, &signed_bytes(T::DOMAIN, &self.payload), &self.signature) {
            return Err(SignedError::BadSignature { domain: T::DOMAIN, key: self.key });
        }
        serde_json::from_slice(&self.payload)
            .map_err(|e| SignedError::Malformed { domain: T::DOMAIN, why: e.to_string() })
    }

    /// Digest of the exact bytes that were signed: how one message names another.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.payload)
    }
}

impl<T> Signed<T> {
    /// The key that the message says it is signed with.
    #[must_use]
    pub fn key(&self) -> PublicKey {
        self.key
    }
}

fn signed_bytes(domain: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(domain.len() + payload.len() + 10);
    bytes.extend_from_slice(b"ostler/1/");
    bytes.extend_from_slice(domain.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(payload);
    bytes
}

impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self {
            payload: self.payload.clone(),
            key: self.key,
            signature: self.signature,
            message: PhantomData,
        }
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.payload == other.payload && self.key == other.key && self.signature == other.signature
    }
}

impl<T> Eq for Signed<T> {}

impl<T> fmt::Display for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", B64.encode(&self.payload), self.key, B64.encode(&self.signature))
    }
}

impl<T> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signed({} by {})", String::from_utf8_lossy(&self.payload), self.key)
    }
}

impl<T: Message> FromStr for Signed<T> {
    type Err = SignedError;
    fn from_str(text: &str) -> Result<Self, SignedError> {
        let malformed = |why: String| SignedError::Malformed { domain: T::DOMAIN, why };
        let parts: Vec<&str> = text.split('.').collect();
        let [payload, key, signature] = parts[..] else {
            return Err(malformed(format!("{} parts instead of 3", parts.len())));
        };
        let decode = |part: &str| B64.decode(part.as_bytes()).map_err(|e| malformed(e.to_string()));
        let signature = decode(signature)?
            .try_into()
            .map_err(|b: Vec<u8>| malformed(format!("signature has {} bytes, not 64", b.len())))?;
        Ok(Self {
            payload: decode(payload)?,
            key: key.parse().map_err(malformed)?,
            signature,
            message: PhantomData,
        })
    }
}

impl<T> Serialize for Signed<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, T: Message> Deserialize<'de> for Signed<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A text whose meaning is in its first part.
impl<T: Message> JsonSchema for Signed<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Signed-{}", T::DOMAIN).into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": format!(
                "A signed {}: `payload.key.signature`, each in base64url; the payload is JSON.",
                T::DOMAIN
            ),
            "pattern": r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{43}\.[A-Za-z0-9_-]{86}$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Yes(u32);
    impl Message for Yes {
        const DOMAIN: &'static str = "yes";
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct No(u32);
    impl Message for No {
        const DOMAIN: &'static str = "no";
    }

    fn key() -> SecretKey {
        SecretKey::from_seed([7; 32])
    }

    #[test]
    fn a_signed_message_survives_the_wire() {
        let signed = Signed::seal(&Yes(1), &key());
        let text = serde_json::to_string(&signed).unwrap();
        let back: Signed<Yes> = serde_json::from_str(&text).unwrap();
        assert_eq!(back.open(), Ok(Yes(1)));
        assert_eq!(back.digest(), signed.digest());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let signed = Signed::seal(&Yes(1), &key());
        for i in 0..signed.payload.len() * 8 {
            let mut forged = signed.clone();
            forged.payload[i / 8] ^= 1 << (i % 8);
            assert!(forged.open().is_err(), "bit {i} of the payload");
        }
        for i in 0..64 * 8 {
            let mut forged = signed.clone();
            forged.signature[i / 8] ^= 1 << (i % 8);
            assert!(forged.open().is_err(), "bit {i} of the signature");
        }
    }

    #[test]
    fn a_yes_cannot_be_passed_off_as_a_no() {
        let text = Signed::seal(&Yes(1), &key()).to_string();
        let forged: Signed<No> = text.parse().unwrap();
        assert!(matches!(forged.open(), Err(SignedError::BadSignature { .. })));
    }

    #[test]
    fn a_secret_key_never_prints_itself() {
        let printed = format!("{:?}", key());
        assert!(!printed.contains(&B64.encode(&key().seed())));
    }
}
