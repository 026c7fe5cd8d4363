//! Keys as certificates in files, for programs that know TLS by its usual means: Prometheus, curl, a browser.
//!
//! Among ourselves a certificate is only the envelope of a key ([`crate::tls`]), made anew by each process. It
//! comes out the same each time, byte for byte, so one that was seen once can be named as an
//! authority: it vouches for itself and for nobody else. Whoever verifies names asks for [`NAME`].

use data_encoding::BASE64;
use protocol::signed::PublicKey;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::identity::Identity;
use crate::tls;

/// The name that every certificate is made out to. It means nothing: the key does.
pub const NAME: &str = "ostler";

/// Longest line of base64 in a PEM file (RFC 7468 §2).
const PEM_LINE_CHARS: usize = 64;

/// A key in its envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    der: CertificateDer<'static>,
    key: PublicKey,
}

impl Certificate {
    /// The one that this identity shows.
    #[must_use]
    pub fn of(identity: &Identity) -> Self {
        Self { der: tls::envelope(identity).0, key: identity.public() }
    }

    /// What the other end of a finished handshake has shown, and proved to have the key of.
    pub(crate) fn shown(certificates: Option<&[CertificateDer<'_>]>) -> Option<Self> {
        let key = tls::peer_key(certificates)?;
        Some(Self { der: certificates?.first()?.clone().into_owned(), key })
    }

    /// All of ours in a PEM file; whatever else is in it is left out.
    #[must_use]
    pub fn all_in(pem: &[u8]) -> Vec<Self> {
        let all = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok);
        all.filter_map(|der| Self::shown(Some(&[der]))).collect()
    }

    /// The key that is in it.
    #[must_use]
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// As a PEM file has it.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }
}

/// The secret key as a PEM file has it (PKCS#8, RFC 8410).
#[must_use]
pub fn secret_to_pem(identity: &Identity) -> String {
    pem("PRIVATE KEY", &tls::pkcs8(identity))
}

/// The identity whose secret key is in a PEM file; `None` when there is no Ed25519 key in it.
#[must_use]
pub fn secret_in_pem(text: &[u8]) -> Option<Identity> {
    let der = rustls_pki_types::PrivatePkcs8KeyDer::from_pem_slice(text).ok()?;
    let seed = der.secret_pkcs8_der().strip_prefix(&tls::PKCS8_PREFIX)?;
    Some(Identity::from_seed(seed.try_into().ok()?))
}

fn pem(what: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let mut pem = format!("-----BEGIN {what}-----\n");
    for line in text.as_bytes().chunks(PEM_LINE_CHARS) {
        pem.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {what}-----\n"));
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_is_the_same_each_time() {
        let identity = Identity::ephemeral();
        assert_eq!(Certificate::of(&identity), Certificate::of(&identity));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let (one, two) = (Identity::ephemeral(), Identity::ephemeral());
        let all = [Certificate::of(&one), Certificate::of(&two)];
        let mut file = "somebody's note\n".to_owned();
        file.extend(all.iter().map(Certificate::to_pem));
        file.push_str(&secret_to_pem(&one));
        assert_eq!(Certificate::all_in(file.as_bytes()), all);
        let again = secret_in_pem(file.as_bytes()).expect("there is a key");
        assert_eq!(again.public(), one.public());
    }

    #[test]
    fn what_is_no_key_of_ours_is_none() {
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let file = pem("PRIVATE KEY", other.serialized_der());
        assert!(secret_in_pem(file.as_bytes()).is_none());
        assert!(
            secret_in_pem(b"-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----\n").is_none()
        );
        let certificate = rcgen::CertificateParams::default().self_signed(&other).unwrap();
        assert_eq!(Certificate::all_in(pem("CERTIFICATE", certificate.der()).as_bytes()), []);
    }
}
