//! Whose turn it is to mend a set, of several schedulers that keep it.
//!
//! Decides an order, the same at each of them and another one for each set (rendezvous hashing). Nobody
//! asks whether the first one lives: the next acts when a violation has stood longer than the first
//! would have let it. While nobody could mend it, and while others are seen mending, that time begins
//! anew: when the way is free all would else set out in the same instant. So two of them seldom act at
//! once, and when they do hosts and arbiters decide.

use protocol::id::SetName;
use protocol::signed::PublicKey;

/// The schedulers of a cluster, of which this is one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turns {
    /// This one, if it is known.
    pub me: Option<PublicKey>,
    /// All of them.
    pub all: Vec<PublicKey>,
}

impl Turns {
    /// How many others come first.
    pub(crate) fn place(&self, set: &SetName) -> u32 {
        let Some(me) = self.me.filter(|me| self.all.contains(me)) else { return 0 };
        let mine = (lot(set, &me), me);
        let first = self.all.iter().filter(|key| (lot(set, key), **key) < mine);
        u32::try_from(first.count()).unwrap_or(u32::MAX)
    }
}

/// FNV-1a over the set's name and the key.
fn lot(set: &SetName, key: &PublicKey) -> u64 {
    let bytes = set.as_str().as_bytes().iter().chain(key.as_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use protocol::signed::SecretKey;

    use super::*;

    #[test]
    fn each_set_has_an_order_of_its_own_which_all_agree_on() {
        let all: Vec<PublicKey> = (1..=3).map(|n| SecretKey::from_seed([n; 32]).public()).collect();
        let mut firsts = std::collections::BTreeSet::new();
        for n in 0..30 {
            let set = SetName::new(format!("set-{n}")).unwrap();
            let place = |me: &PublicKey| Turns { me: Some(*me), all: all.clone() }.place(&set);
            let mut places: Vec<u32> = all.iter().map(place).collect();
            firsts.insert(places.iter().position(|place| *place == 0));
            places.sort_unstable();
            assert_eq!(places, [0, 1, 2]);
        }
        assert_eq!(firsts.len(), 3, "each is first in some");
        let set = SetName::new("web").unwrap();
        let stranger = Turns { me: None, all };
        assert_eq!(stranger.place(&set), 0, "whom nobody counts does not wait for others");
    }
}
