//! `ostler users`: keys that run the VMs of one tenant, of people and of tools.
//!
//! ```text
//!   another's `users key` ──▶ add KEY --name NAME --tenant TENANT ──▶ their `trust fetch`
//! ```

use protocol::id::TenantId;
use protocol::trust::{Trust, User};
use serde_json::json;

use super::named_keys;
use crate::cli::{UsersArgs, UsersCommand};
use crate::exit::{Code, Failure};
use crate::session::Session;
use crate::show;

/// See the module.
pub(crate) async fn run(session: &Session, args: UsersArgs) -> Result<Code, Failure> {
    match args.command {
        None => list(session).await,
        Some(UsersCommand::Key) => unreachable!("it needs no cluster"),
        Some(UsersCommand::Add { key, name, tenant }) => {
            let user = User { key, name, tenant: tenant.clone() };
            named_keys::add(session, user, |next| warn(next, &tenant)).await
        }
        Some(UsersCommand::Remove { user }) => named_keys::remove::<User>(session, &user).await,
    }
}

async fn list(session: &Session) -> Result<Code, Failure> {
    let users: Vec<User> = named_keys::in_force(session).await?;
    if session.is_json {
        show::json_pretty(&json!({ "users": users }));
        return Ok(Code::Ok);
    }
    let row =
        |User { key, name, tenant }: &User| [name.clone(), tenant.to_string(), key.to_string()];
    show::table(["NAME", "TENANT", "KEY"], users.iter().map(row).collect());
    Ok(Code::Ok)
}

/// What is not limited is as much as there is.
fn warn(trust: &Trust, tenant: &TenantId) {
    if !trust.quota.contains_key(tenant) {
        show::note(&format!(
            "warning: tenant {tenant} has no quota; next: ostler quota set {tenant} --vcpus N --memory SIZE --vms N"
        ));
    }
    let rules = trust.policy.of(tenant);
    let has_bounds = rules.is_some_and(|rules| rules.vm_max.is_some() && rules.images.is_some());
    if !has_bounds {
        show::note(&format!(
            "warning: no policy says how large a disk of tenant {tenant} may be (`vm_max`), and from which images (`images`; \
             those made of others' disks are among them); next: ostler policy set FILE"
        ));
    }
}

#[cfg(test)]
mod tests {
    use protocol::id::ClusterId;
    use transport::Identity;

    use super::named_keys::with;
    use super::*;

    #[test]
    fn a_key_has_one_tenant_and_a_name_one_key() {
        let (operator, one, two) =
            (Identity::ephemeral(), Identity::ephemeral(), Identity::ephemeral());
        let slot = protocol::trust::Slot { slot: 0, key: two.public(), url: String::new() };
        let trust = Trust {
            version: 4000,
            operators: vec![operator.public()],
            arbiters: vec![slot],
            ..Trust::of_nobody("c1".parse::<ClusterId>().unwrap())
        };
        let user = |key: &Identity, name: &str, tenant: &str| User {
            key: key.public(),
            name: name.to_owned(),
            tenant: tenant.parse().unwrap(),
        };
        let first = with(&trust, user(&one, "ann", "a")).unwrap().unwrap();
        assert!(first.version > trust.version);
        assert_eq!(with(&first, user(&one, "ann", "a")).unwrap(), None);
        let moved = with(&first, user(&one, "ann", "b")).unwrap().unwrap();
        assert_eq!(moved.users, [user(&one, "ann", "b")]);
        assert!(with(&first, user(&Identity::ephemeral(), "ann", "a")).is_err());
        assert!(with(&first, user(&two, "an arbiter", "a")).is_err());
        assert!(with(&first, user(&operator, "the operator", "a")).is_err());
    }
}
