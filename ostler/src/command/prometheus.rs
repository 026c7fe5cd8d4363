//! `ostler prometheus`: what a Prometheus needs to scrape every part of the cluster, in a folder.
//!
//! ```text
//!   key.pem, cert.pem   a key of its own, which reads /metrics and nothing else
//!   ca.pem              what each part shows in TLS, so that nobody else is taken for one
//!   targets.json        where they answer, with their role and host
//!   scrape.yml          the section for prometheus.yml
//! ```
//!
//! Decides what is in them, and that the key is known to the cluster before they are written. Safe to
//! repeat; needed again when hosts or roles have come or gone. Prometheus sees changed files by itself.

mod folder;

use std::collections::BTreeMap;
use std::path::Path;

use futures_util::{StreamExt as _, stream};
use protocol::job::Role;
use protocol::signed::PublicKey;
use protocol::trust::{Reader, Sight, Trust};
use serde::Serialize;
use serde_json::json;
use transport::certificate::{self, Certificate};
use transport::{Endpoint, Identity};

use self::folder::Folder;
use super::named_keys;
use crate::cli::PrometheusArgs;
use crate::exit::{Code, Failure};
use crate::govern::Authority;
use crate::picture::{Picture, chain};
use crate::session::Session;
use crate::show;

/// How many parts are asked for what they show at a time.
const ASKED_AT_ONCE: usize = 64;

/// Whom to scrape.
struct Part {
    role: Role,
    /// The name of the host that it is on, as far as that is known.
    host: Option<String>,
    to: Endpoint,
    key: PublicKey,
}

/// A group of Prometheus' file-based discovery.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Target {
    targets: [String; 1],
    labels: BTreeMap<&'static str, String>,
}

/// See the module.
pub(crate) async fn run(session: &Session, args: PrometheusArgs) -> Result<Code, Failure> {
    let folder = Folder::open(&args.folder)?;
    let identity = match folder.read("key.pem")? {
        Some(text) => certificate::secret_in_pem(&text).ok_or_else(|| {
            let what = format!("there is no Ed25519 key in {}", folder.path("key.pem").display());
            Failure::usage(what)
                .next("move it away to have a new one made, or choose another folder")
        })?,
        None => Identity::ephemeral(),
    };
    let picture = session.picture().await?;
    picture.warn();
    let authority = Authority::newest(session, &picture).await?;
    let reader = Reader { key: identity.public(), name: args.name, sees: Sight::Metrics };
    // Kept before anybody knows it: a key that is known and lost would be in the way of the next.
    folder.write("key.pem", &certificate::secret_to_pem(&identity))?;
    let next = named_keys::with(&authority.trust, reader)?;
    let trust = next.clone().unwrap_or_else(|| authority.trust.clone());
    if let Some(next) = next {
        authority.decree(session, &picture, next).await?;
    }

    let parts = parts(&trust, &picture);
    let known = folder.read("ca.pem")?.unwrap_or_default();
    let (shown, silent) = certificates(session, &parts, &Certificate::all_in(&known)).await;
    let targets: Vec<Target> = parts.iter().filter_map(target).collect();
    folder.write("cert.pem", &Certificate::of(&identity).to_pem())?;
    folder.write("ca.pem", &shown.iter().map(Certificate::to_pem).collect::<String>())?;
    folder.write("targets.json", &format!("{:#}\n", json!(targets)))?;
    folder.write("scrape.yml", &scrape(&args.folder))?;
    tell(session, &folder, targets.len(), &silent);
    Ok(Code::Ok)
}

fn tell(session: &Session, folder: &Folder, targets: usize, silent: &[String]) {
    for who in silent {
        show::note(&format!("warning: {who}; repeat this once it answers"));
    }
    let section = folder.path("scrape.yml");
    if session.is_json {
        show::json_pretty(&json!({ "targets": targets, "not_seen": silent, "section": section }));
        return;
    }
    show::note(&format!("{targets} targets"));
    show::line(&section.display().to_string());
    show::note(
        "put what is in it into prometheus.yml, or name it in `scrape_config_files`; alerts are in \
         docs/alerts.yml",
    );
}

/// Agents, then arbiters, witnesses, monitors and controllers.
fn parts(trust: &Trust, picture: &Picture) -> Vec<Part> {
    let roster = trust.roster_by_host();
    let mut parts = Vec::new();
    let mut hosts = BTreeMap::new();
    for row in &picture.rows {
        let Some(key) = roster.get(&row.host) else { continue };
        let host = picture.view.host(&row.host).map(|row| row.host.name.clone());
        if let (Some(address), Some(name)) = (address_of(&row.agent.url), &host) {
            hosts.insert(address.to_owned(), name.clone());
        }
        parts.push(Part { role: Role::Host, host, to: row.agent.clone(), key: *key });
    }
    let arbiters = trust.arbiters.iter().map(|slot| (Role::Arbiter, &slot.url, slot.key));
    let witnesses = trust.witnesses.members.iter();
    let witnesses = witnesses.map(|slot| (Role::Witness, &slot.url, slot.key));
    let peers = trust.peers.iter().map(|peer| (peer.role, &peer.url, peer.key));
    parts.extend(arbiters.chain(witnesses).chain(peers).map(|(role, url, key)| Part {
        role,
        host: address_of(url).and_then(|address| hosts.get(address).cloned()),
        to: Endpoint::of_key(url.clone(), key),
        key,
    }));
    parts
}

/// `ADDRESS` of `https://ADDRESS:PORT`.
fn address_of(url: &str) -> Option<&str> {
    Some(authority_of(url)?.rsplit_once(':')?.0)
}

/// `ADDRESS:PORT` of `https://ADDRESS:PORT`; `None` when there is no TLS.
fn authority_of(url: &str) -> Option<&str> {
    Some(url.strip_prefix("https://")?.trim_end_matches('/'))
}

fn target(part: &Part) -> Option<Target> {
    let role = match part.role {
        Role::Host => "agent".to_owned(),
        role => role.to_string(),
    };
    let host = part.host.clone().map(|host| ("host", host));
    Some(Target {
        targets: [authority_of(&part.to.url)?.to_owned()],
        labels: host.into_iter().chain([("role", role)]).collect(),
    })
}

/// What each part shows; of one that does not answer, what it showed the last time.
async fn certificates(
    session: &Session,
    parts: &[Part],
    known: &[Certificate],
) -> (Vec<Certificate>, Vec<String>) {
    let asked = stream::iter(parts).map(|part| async move {
        let shown = session.client.certificate(&part.to).await;
        shown.map_err(|error| (part.key, format!("{}: {}", part.to, chain(&error))))
    });
    let answers: Vec<_> = asked.buffered(ASKED_AT_ONCE).collect().await;
    let mut all = Vec::new();
    let mut silent = Vec::new();
    for answer in answers {
        match answer {
            Ok(shown) => all.push(shown),
            Err((key, why)) => match known.iter().find(|known| known.key() == key) {
                Some(known) => all.push(known.clone()),
                None => silent.push(why),
            },
        }
    }
    all.dedup();
    (all, silent)
}

fn scrape(folder: &Path) -> String {
    // A JSON string is one of YAML's.
    let path = |name: &str| json!(folder.join(name));
    format!(
        "scrape_configs:\n  - job_name: ostler\n    scheme: https\n    tls_config:\n      \
         ca_file: {}\n      cert_file: {}\n      key_file: {}\n      server_name: {}\n    \
         file_sd_configs:\n      - files: [{}]\n",
        path("ca.pem"),
        path("cert.pem"),
        path("key.pem"),
        certificate::NAME,
        path("targets.json"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(role: Role, url: &str, host: Option<&str>) -> Part {
        let key = Identity::ephemeral().public();
        Part { role, host: host.map(str::to_owned), to: Endpoint::of_key(url, key), key }
    }

    #[test]
    fn a_target_is_an_address_with_its_role_and_host() {
        let agent = target(&part(Role::Host, "https://10.0.0.1:7460", Some("h1"))).unwrap();
        assert_eq!(
            serde_json::to_value(&agent).unwrap(),
            json!({ "targets": ["10.0.0.1:7460"], "labels": { "role": "agent", "host": "h1" } })
        );
        let away = target(&part(Role::Monitor, "https://[fd00::1]:7471", None)).unwrap();
        assert_eq!(away.targets, ["[fd00::1]:7471"]);
        assert_eq!(away.labels.len(), 1);
        assert_eq!(target(&part(Role::Host, "unix:/run/agent.sock", None)), None);
        assert_eq!(address_of("https://[fd00::1]:7471"), Some("[fd00::1]"));
    }

    #[test]
    fn the_section_names_every_file_wherever_the_folder_is() {
        let text = scrape(Path::new("/etc/prom \"x\"/o"));
        for name in ["ca", "cert", "key"] {
            assert!(text.contains(&format!(r#"_file: "/etc/prom \"x\"/o/{name}.pem""#)), "{text}");
        }
        assert!(text.contains(r#"- files: ["/etc/prom \"x\"/o/targets.json"]"#), "{text}");
    }
}
