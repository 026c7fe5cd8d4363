//! The floor: bare Ed25519 of the library that is used, keys ready in memory, and CPU time.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use rustix::time::{ClockId, clock_gettime};

/// CPU time of this thread.
pub(crate) fn cpu_us() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u32::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    f64::from(seconds.unwrap_or(u32::MAX)) * 1e6 + f64::from(nanos.unwrap_or(0)) / 1e3
}

/// Bare signatures over this many bytes.
pub(crate) struct Raw {
    key: SigningKey,
    public: VerifyingKey,
    message: Vec<u8>,
    signature: Signature,
}

impl Raw {
    pub(crate) fn new(bytes: usize) -> Self {
        let key = SigningKey::from_bytes(&[7; 32]);
        let message = vec![b'x'; bytes];
        let (public, signature) = (key.verifying_key(), key.sign(&message));
        Self { key, public, message, signature }
    }

    /// One signature.
    pub(crate) fn sign(&self) {
        std::hint::black_box(self.key.sign(std::hint::black_box(&self.message)));
    }

    /// One strict verification.
    pub(crate) fn verify(&self) {
        let message = std::hint::black_box(&self.message);
        self.public.verify_strict(message, &self.signature).expect("it is genuine");
    }
}

/// Each deed's best round in CPU time, in microseconds; the deeds take turns, `times` times a round.
pub(crate) fn best<const N: usize>(times: usize, deeds: [&mut dyn FnMut(usize); N]) -> [f64; N] {
    const ROUNDS: usize = 5;
    let mut best = [f64::MAX; N];
    let mut deeds = deeds;
    for round in 0..ROUNDS {
        for (deed, best) in deeds.iter_mut().zip(&mut best) {
            let begin = cpu_us();
            for i in 0..times {
                deed(round * times + i);
            }
            #[expect(clippy::cast_precision_loss, reason = "some thousands")]
            let each = (cpu_us() - begin) / times as f64;
            *best = best.min(each);
        }
    }
    best
}

/// How often [`best`] calls each deed.
pub(crate) const fn calls(times: usize) -> usize {
    5 * times
}
