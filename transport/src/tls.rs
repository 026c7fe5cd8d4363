//! TLS 1.3 in which the certificate is only the envelope of a key.
//!
//! Each side shows a self-signed certificate made in memory from its [`Identity`]; the peer *is*
//! the Ed25519 key in the certificate it proved. No chain, no name, no expiry is looked at: there
//! is no CA to run or lose. Which key is welcome is left to the client's pin and the server's
//! application. Sessions are never resumed, so each connection proves its key anew.

use std::sync::Arc;

use ed25519_dalek::{Signature, VerifyingKey};
use protocol::signed::PublicKey;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    PeerMisbehaved, ServerConfig, SignatureScheme, version,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

use crate::certificate;
use crate::identity::Identity;

/// What precedes the 32 secret bytes in an Ed25519 PKCS#8 document (RFC 8410).
pub(crate) const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// The configuration a client proves `identity` with. Any server key is let through: compare
/// [`peer_key`] with the expected one before anything is sent.
///
/// # Panics
/// When an Ed25519 key can't be used with TLS 1.3, which would be a fault in our libraries.
#[must_use]
pub fn client_config(identity: &Identity) -> ClientConfig {
    let (certificate, key) = envelope(identity);
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(KeyProof))
        .with_client_auth_cert(vec![certificate], key)
        .expect("our own certificate is valid");
    config.resumption = Resumption::disabled();
    config
}

/// The configuration a server proves `identity` with. A client must prove a key, any key.
///
/// # Panics
/// When an Ed25519 key can't be used with TLS 1.3, which would be a fault in our libraries.
#[must_use]
pub fn server_config(identity: &Identity) -> ServerConfig {
    let (certificate, key) = envelope(identity);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .with_client_cert_verifier(Arc::new(KeyProof))
        .with_single_cert(vec![certificate], key)
        .expect("our own certificate is valid");
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// The key that the other end of a finished handshake proved.
#[must_use]
pub fn peer_key(certificates: Option<&[CertificateDer<'_>]>) -> Option<PublicKey> {
    key_of(certificates?.first()?).ok()
}

/// The name a client sends: it means nothing, the key does.
#[must_use]
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from(certificate::NAME).expect("a valid name")
}

/// A verifier that asks one thing only: does the peer hold the key in its certificate?
#[derive(Debug)]
struct KeyProof;

impl KeyProof {
    /// The handshake is checked with the very key that [`key_of`] will report, by one parser, so
    /// there is no second opinion on what the certificate's key is.
    fn verify(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if signed.scheme != SignatureScheme::ED25519 {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        let bad = |_| Error::from(CertificateError::BadSignature);
        let key = VerifyingKey::from_bytes(key_of(certificate)?.as_bytes()).map_err(bad)?;
        let signature = Signature::from_slice(signed.signature()).map_err(bad)?;
        key.verify_strict(message, &signature).map_err(bad)?;
        Ok(HandshakeSignatureValid::assertion())
    }
}

impl ServerCertVerifier for KeyProof {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        key_of(certificate).map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::verify(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for KeyProof {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        key_of(certificate).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::verify(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// Named at every use: with two providers in a build there is no process default to rely on.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The secret key as PKCS#8 has it.
pub(crate) fn pkcs8(identity: &Identity) -> Vec<u8> {
    [&PKCS8_PREFIX[..], &identity.secret().seed()].concat()
}

/// The certificate that carries the key, which is the same each time, and the secret key.
pub(crate) fn envelope(identity: &Identity) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let pkcs8 = PrivatePkcs8KeyDer::from(pkcs8(identity));
    let key = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &rcgen::PKCS_ED25519)
        .expect("32 secret bytes are an Ed25519 key");
    let certificate = rcgen::CertificateParams::new(vec![certificate::NAME.to_owned()])
        .and_then(|params| params.self_signed(&key))
        .expect("our own certificate is valid");
    (certificate.der().clone(), pkcs8.into())
}

fn key_of(certificate: &CertificateDer<'_>) -> Result<PublicKey, Error> {
    let bad = || Error::from(CertificateError::BadEncoding);
    let (rest, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| bad())?;
    let key = &parsed.tbs_certificate.subject_pki;
    if !rest.is_empty() || key.algorithm.algorithm != x509_parser::oid_registry::OID_SIG_ED25519 {
        return Err(bad());
    }
    let bytes: [u8; 32] = key.subject_public_key.data.as_ref().try_into().map_err(|_| bad())?;
    PublicKey::from_bytes(bytes).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_in_the_envelope_is_the_identity() {
        let identity = Identity::ephemeral();
        let (certificate, _) = envelope(&identity);
        assert_eq!(peer_key(Some(&[certificate])), Some(identity.public()));
    }

    #[test]
    fn a_certificate_of_another_kind_of_key_is_refused() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        assert!(key_of(certificate.der()).is_err());
    }
}
