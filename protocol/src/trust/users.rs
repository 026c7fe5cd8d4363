//! Keys that run the VMs of one tenant: of people and tools that are to have their own VMs, and to leave
//! everybody else's alone.
//!
//! What such a key may do is decided by whose VM it is. It looks at everything, as a reader does: it is for
//! colleagues, whose mistakes are to be theirs, and no wall between strangers. What belongs to no tenant
//! (images, pools, networks, hosts, expectations, this document) is the operators'.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{NamedKey, Trust};
use crate::id::TenantId;
use crate::refusal::Refusal;
use crate::signed::PublicKey;

/// Most of them: each is a line in a document that every host keeps.
pub const USERS_MAX: usize = 256;

/// A key that runs the VMs of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Its key.
    pub key: PublicKey,
    /// What operators call it; each name once.
    pub name: String,
    /// Whose VMs.
    pub tenant: TenantId,
}

impl Trust {
    /// The user with this key.
    #[must_use]
    pub fn user(&self, key: &PublicKey) -> Option<&User> {
        self.users.iter().find(|user| user.key == *key)
    }

    /// Whether whoever proved this key may run, stop and see the consoles of a tenant's VMs; the refusal says
    /// who they are taken for.
    pub fn permit_over(&self, key: Option<&PublicKey>, tenant: &TenantId) -> Result<(), Refusal> {
        match key.and_then(|key| self.user(key)) {
            Some(user) if user.tenant == *tenant => Ok(()),
            Some(user) => Err(Refusal::Forbidden {
                who: format!("user {} of tenant {}", user.name, user.tenant),
                what: format!("do this to a VM of tenant {tenant}"),
            }),
            None => self.permit(key, super::Right::Run),
        }
    }
}

impl NamedKey for User {
    const WHAT: &'static str = "user";
    const MAX: usize = USERS_MAX;

    fn key(&self) -> &PublicKey {
        &self.key
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn list(trust: &Trust) -> &Vec<Self> {
        &trust.users
    }

    fn list_mut(trust: &mut Trust) -> &mut Vec<Self> {
        &mut trust.users
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ClusterId;
    use crate::signed::SecretKey;
    use crate::trust::{Reader, Right, Sight, Slot};

    fn key(seed: u8) -> PublicKey {
        SecretKey::from_seed([seed; 32]).public()
    }

    fn user(seed: u8, name: &str, tenant: &str) -> User {
        User { key: key(seed), name: name.to_owned(), tenant: tenant.parse().unwrap() }
    }

    fn trust(users: Vec<User>) -> Trust {
        Trust {
            version: 1,
            operators: vec![key(1)],
            arbiters: vec![Slot { slot: 0, key: key(2), url: String::new() }],
            roster: vec![key(3)],
            readers: vec![Reader { key: key(4), name: "bob".into(), sees: Sight::Everything }],
            users,
            ..Trust::of_nobody(ClusterId::new("c1").unwrap())
        }
    }

    #[test]
    fn a_user_has_a_tenants_vms_and_nothing_that_is_nobodys() {
        let trust = trust(vec![user(7, "ann", "a")]);
        trust.validate().unwrap();
        let may = |seed, right| trust.permit(Some(&key(seed)), right).is_ok();
        assert!(may(7, Right::Scrape) && may(7, Right::Read));
        assert!(!may(7, Right::Run) && !may(7, Right::Govern));
        let over =
            |seed, tenant: &str| trust.permit_over(Some(&key(seed)), &tenant.parse().unwrap());
        assert_eq!(over(7, "a"), Ok(()));
        let said = over(7, "b").unwrap_err().to_string();
        assert!(said.contains("user ann of tenant a") && said.contains("tenant b"), "{said}");
        assert!(over(1, "a").is_ok() && over(1, "b").is_ok(), "an operator has all");
        for other in [3, 4, 9] {
            assert!(over(other, "a").is_err(), "a host, a reader, a stranger");
        }
        assert!(trust.permit_over(None, &"a".parse().unwrap()).is_err());
    }

    #[test]
    fn a_document_with_contradicting_users_is_refused() {
        let one = user(7, "ann", "a");
        let cases = [
            vec![one.clone(), user(7, "bob", "b")],
            vec![one.clone(), user(8, "ann", "b")],
            vec![user(1, "the operator", "a")],
            vec![user(3, "a host", "a")],
            vec![user(4, "a reader", "a")],
            vec![user(7, "", "a")],
        ];
        for users in cases {
            let names: Vec<_> = users.iter().map(|user| user.name.clone()).collect();
            assert!(trust(users).validate().is_err(), "{names:?}");
        }
    }

    #[test]
    fn a_document_without_users_reads_as_ever() {
        let json = serde_json::to_value(trust(vec![])).unwrap();
        assert!(json.get("users").is_none());
        let with = serde_json::to_value(trust(vec![user(8, "ann", "a")])).unwrap();
        assert_eq!(with["users"][0]["tenant"], "a");
    }
}
