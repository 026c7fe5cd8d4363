//! Announcing and finding hosts on the local network, by mDNS service discovery.
//!
//! Decides the service's name and its texts (`id`, `name`, `url`, `v`, `join`). Anybody on the
//! network can announce anything: what is found is contacted with the host id as the pin, and beside
//! a cluster with a join secret only those count who prove that they know it.

use std::collections::HashMap;

use http::Uri;
use mdns_sd::{Receiver, ServiceDaemon, ServiceEvent, ServiceInfo};
use protocol::id::HostId;

use super::{Advert, ClusterUrl, Found, Listed, Unproven, address_url};

/// What hosts announce themselves as.
const SERVICE: &str = "_ostler._tcp.local.";

/// Version of the texts.
const VERSION: &str = "1";

/// Tells the network for as long as it is kept.
pub(super) struct Announcement {
    daemon: ServiceDaemon,
}

/// Listens to the network for as long as it is kept.
pub(super) struct Browser {
    daemon: ServiceDaemon,
    events: Receiver<ServiceEvent>,
    heard: HashMap<String, Heard>,
    /// Clusters with a join secret; a host must prove that it knows one of them, if there are any.
    clusters: Vec<ClusterUrl>,
}

/// What somebody on the network announces.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Heard {
    host: HostId,
    name: String,
    url: String,
    join: Option<String>,
}

impl Announcement {
    pub(super) fn start(
        advert: &Advert,
        host: &HostId,
        join: Option<&str>,
    ) -> Result<Self, String> {
        let info = info_of(advert, host, join)?;
        let daemon = ServiceDaemon::new().map_err(|e| e.to_string())?;
        let announcement = Self { daemon };
        announcement.daemon.register(info).map_err(|e| e.to_string())?;
        Ok(announcement)
    }
}

impl Browser {
    pub(super) fn start(clusters: Vec<ClusterUrl>) -> Result<Self, String> {
        let daemon = ServiceDaemon::new().map_err(|e| e.to_string())?;
        let events = daemon.browse(SERVICE).map_err(|e| e.to_string())?;
        Ok(Self { daemon, events, heard: HashMap::new(), clusters })
    }

    /// Waits until something changed, and answers with all that is there now.
    pub(super) async fn next(&mut self) -> Result<Listed, String> {
        loop {
            let event = self.events.recv_async().await.map_err(|e| e.to_string())?;
            match event {
                ServiceEvent::ServiceResolved(service) => {
                    match heard_of(|key| service.get_property_val_str(key)) {
                        Some(heard) => self.heard.insert(service.get_fullname().to_owned(), heard),
                        None => continue,
                    };
                }
                ServiceEvent::ServiceRemoved(_, name) => {
                    self.heard.remove(&name);
                }
                _ => continue,
            }
            return Ok(sort(self.heard.values(), &self.clusters));
        }
    }
}

/// Who proves to be of one of the clusters, and who does not.
fn sort<'a>(heard: impl Iterator<Item = &'a Heard>, clusters: &[ClusterUrl]) -> Listed {
    let mut listed = Listed::default();
    for Heard { host, name, url, join } in heard {
        let judge = |cluster: &ClusterUrl| cluster.judge_join(host, join.as_deref());
        let judged: Vec<_> = clusters.iter().map(judge).collect();
        let (name, url) = (name.clone(), url.clone());
        match judged.last() {
            Some(Err(why)) if judged.iter().all(Result::is_err) => {
                listed.unproven.push(Unproven { name, url, why: *why });
            }
            _ => {
                let host = Some(host.clone());
                listed.hosts.push(Found { host, key: None, name, url, other_urls: Vec::new() });
            }
        }
    }
    listed.hosts.sort_by(|a, b| (&a.host, &a.url).cmp(&(&b.host, &b.url)));
    listed.unproven.sort_by(|a, b| a.url.cmp(&b.url));
    listed
}

impl Drop for Announcement {
    fn drop(&mut self) {
        // Says goodbye on the network and ends the daemon's thread; nobody waits for it.
        let _ = self.daemon.shutdown();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.daemon.shutdown();
    }
}

fn info_of(advert: &Advert, host: &HostId, join: Option<&str>) -> Result<ServiceInfo, String> {
    let uri: Uri = advert.url.parse().map_err(|e| format!("{:?}: {e}", advert.url))?;
    let port = uri.port_u16().ok_or_else(|| format!("{:?} names no port", advert.url))?;
    let (id, name, url) = (host.as_str(), advert.name.as_str(), advert.url.as_str());
    let mut texts = vec![("id", id), ("name", name), ("url", url), ("v", VERSION)];
    texts.extend(join.map(|join| ("join", join)));
    // The address that counts is in `url`; it may be one that no interface here has (behind NAT).
    // DNS gets those of the interfaces, without which the daemon would not announce on them.
    ServiceInfo::new(SERVICE, id, &format!("{id}.local."), "", port, &texts[..])
        .map(ServiceInfo::enable_addr_auto)
        .map_err(|e| e.to_string())
}

fn heard_of<'a>(text: impl Fn(&'static str) -> Option<&'a str>) -> Option<Heard> {
    let id = text("id")?;
    let host: HostId = id.parse().ok()?;
    let url = address_url(text("url")?).ok()?;
    let name = text("name").unwrap_or(id).to_owned();
    Some(Heard { host, name, url, join: text("join").map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::{Doubt, JoinSecret};

    #[test]
    fn what_is_announced_is_what_is_found() {
        let host: HostId = "h1".parse().unwrap();
        let advert = Advert::new("host1", "https://10.0.0.1:7460");
        let info = info_of(&advert, &host, Some("proof")).unwrap();
        let heard = heard_of(|key| info.get_property_val_str(key)).unwrap();
        let (name, url) = (advert.name, advert.url);
        assert_eq!(heard, Heard { host, name, url, join: Some("proof".into()) });
    }

    #[test]
    fn nonsense_on_the_network_is_not_found() {
        let of = |id, url| {
            heard_of(move |key| match key {
                "id" => id,
                "url" => url,
                _ => None,
            })
        };
        assert!(of(Some("h1"), Some("https://10.0.0.1:1")).is_some());
        assert_eq!(of(None, Some("https://10.0.0.1:1")), None);
        assert_eq!(of(Some("Not An Id"), Some("https://10.0.0.1:1")), None);
        assert_eq!(of(Some("h1"), Some("ftp://10.0.0.1:1")), None);
    }

    #[test]
    fn beside_a_join_secret_the_network_must_prove_it_too() {
        let with_secret = |secret: &JoinSecret| -> ClusterUrl {
            format!("http://d/clusters/c#join={}", secret.text()).parse().unwrap()
        };
        let (ours, others) = (JoinSecret::fresh(), JoinSecret::fresh());
        let heard = |name: &str, join: Option<String>| Heard {
            host: name.parse().unwrap(),
            name: name.to_owned(),
            url: format!("https://{name}:1"),
            join,
        };
        let proof = |secret: &JoinSecret, name: &str| {
            with_secret(secret).join_proof(&name.parse().unwrap())
        };
        let all = [
            heard("h1", proof(&ours, "h1")),
            heard("h2", None),
            heard("h3", proof(&others, "h3")),
            heard("h4", proof(&ours, "h1")),
        ];
        let listed = sort(all.iter(), &[with_secret(&ours)]);
        let names: Vec<&str> = listed.hosts.iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, ["h1"]);
        let doubts: Vec<Doubt> = listed.unproven.iter().map(|unproven| unproven.why).collect();
        assert_eq!(doubts, [Doubt::NotJoined, Doubt::WrongSecret, Doubt::WrongSecret]);
        assert_eq!(sort(all.iter(), &[]).hosts.len(), 4, "without a secret everybody counts");
    }
}
