//! What this thread has worked out about keys and signatures already.
//!
//! Decides nothing: each answer is that of the arithmetic, which has no other inputs. A key is taken apart once and not with every
//! message that names it. Signatures are remembered only by a thread that asks for it, since a daemon sees most of
//! them once, while in a simulator hundreds of nodes on one thread are told the same.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest as _, Sha256};

/// Keys of a large cluster: a megabyte for each thread that meets so many.
const KEYS_MAX: usize = 4_096;

/// Signatures of some minutes of a simulated cluster.
const SIGNATURES_MAX: usize = 65_536;

thread_local! {
    static KEYS: RefCell<BTreeMap<[u8; 32], VerifyingKey>> = RefCell::default();
    static SIGNATURES: RefCell<Option<BTreeSet<[u8; 32]>>> = const { RefCell::new(None) };
}

/// The key that these bytes are, if they are a point on the curve.
pub(super) fn key_of(bytes: &[u8; 32]) -> Option<VerifyingKey> {
    KEYS.with_borrow_mut(|keys| {
        if let Some(key) = keys.get(bytes) {
            return Some(*key);
        }
        let key = VerifyingKey::from_bytes(bytes).ok()?;
        if keys.len() >= KEYS_MAX {
            // Those in use are soon back.
            keys.clear();
        }
        keys.insert(*bytes, key);
        Some(key)
    })
}

/// Whether this key has signed these bytes so.
pub(super) fn holds(key: &[u8; 32], signed: &[u8], signature: &[u8; 64]) -> bool {
    let verify = || {
        let key = key_of(key)?;
        key.verify_strict(signed, &Signature::from_bytes(signature)).ok()
    };
    SIGNATURES.with_borrow_mut(|known| {
        let Some(known) = known else { return verify().is_some() };
        let digest = Sha256::new().chain_update(key).chain_update(signature).chain_update(signed);
        let digest: [u8; 32] = digest.finalize().into();
        if known.contains(&digest) {
            return true;
        }
        let holds = verify().is_some();
        if holds {
            if known.len() >= SIGNATURES_MAX {
                known.clear();
            }
            known.insert(digest);
        }
        holds
    })
}

/// From now on this thread verifies no signature twice: for simulators.
pub fn remember_signatures() {
    SIGNATURES.with_borrow_mut(|known| _ = known.get_or_insert_default());
}

#[cfg(test)]
mod tests {
    use super::super::SecretKey;
    use super::*;
    use ed25519_dalek::Signer as _;

    #[test]
    fn what_is_remembered_is_this_signature_of_these_bytes_by_this_key() {
        let (one, other) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
        let key = *one.public().as_bytes();
        let good = one.0.sign(b"web-1 runs on h1").to_bytes();
        let mut bad = good;
        bad[7] ^= 1;
        for is_remembered in [false, true] {
            if is_remembered {
                remember_signatures();
            }
            for _ in 0..2 {
                assert!(holds(&key, b"web-1 runs on h1", &good));
                assert!(!holds(&key, b"web-1 runs on h2", &good));
                assert!(!holds(&key, b"web-1 runs on h1", &bad));
                assert!(!holds(other.public().as_bytes(), b"web-1 runs on h1", &good));
            }
        }
    }

    #[test]
    fn no_more_keys_are_kept_than_a_cluster_has() {
        let key = |n: usize| {
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&n.to_le_bytes());
            *SecretKey::from_seed(seed).public().as_bytes()
        };
        for n in 0..KEYS_MAX + 10 {
            assert!(key_of(&key(n)).is_some());
        }
        assert!(KEYS.with_borrow(BTreeMap::len) <= KEYS_MAX);
        assert_eq!(key_of(&key(0)).map(|known| known.to_bytes()), Some(key(0)));
        let mut none = [0; 32];
        none[0] = 2;
        assert_eq!((key_of(&none), key_of(&none)), (None, None), "no point of the curve");
    }
}
