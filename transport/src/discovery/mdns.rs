//! Announcing and finding hosts on the local network, by mDNS service discovery.
//!
//! Decides the service's name and its texts (`id`, `name`, `url`, `v`). Anybody on the network can
//! announce anything: what is found is contacted with the host id as the pin.

use std::collections::HashMap;

use http::Uri;
use mdns_sd::{Receiver, ServiceDaemon, ServiceEvent, ServiceInfo};
use protocol::id::HostId;

use super::{Advert, Found, address_url};

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
    found: HashMap<String, Found>,
}

impl Announcement {
    pub(super) fn start(advert: &Advert, host: &HostId) -> Result<Self, String> {
        let info = info_of(advert, host)?;
        let daemon = ServiceDaemon::new().map_err(|e| e.to_string())?;
        let announcement = Self { daemon };
        announcement.daemon.register(info).map_err(|e| e.to_string())?;
        Ok(announcement)
    }
}

impl Browser {
    pub(super) fn start() -> Result<Self, String> {
        let daemon = ServiceDaemon::new().map_err(|e| e.to_string())?;
        let events = daemon.browse(SERVICE).map_err(|e| e.to_string())?;
        Ok(Self { daemon, events, found: HashMap::new() })
    }

    /// Waits until something changed, and answers with all that is there now.
    pub(super) async fn next(&mut self) -> Result<Vec<Found>, String> {
        loop {
            let event = self.events.recv_async().await.map_err(|e| e.to_string())?;
            match event {
                ServiceEvent::ServiceResolved(service) => {
                    match found_of(|key| service.get_property_val_str(key)) {
                        Some(found) => self.found.insert(service.get_fullname().to_owned(), found),
                        None => continue,
                    };
                }
                ServiceEvent::ServiceRemoved(_, name) => {
                    self.found.remove(&name);
                }
                _ => continue,
            }
            let mut found: Vec<_> = self.found.values().cloned().collect();
            found.sort_by(|a, b| a.host.cmp(&b.host));
            return Ok(found);
        }
    }
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

fn info_of(advert: &Advert, host: &HostId) -> Result<ServiceInfo, String> {
    let uri: Uri = advert.url.parse().map_err(|e| format!("{:?}: {e}", advert.url))?;
    let port = uri.port_u16().ok_or_else(|| format!("{:?} names no port", advert.url))?;
    let (id, name, url) = (host.as_str(), advert.name.as_str(), advert.url.as_str());
    let texts = [("id", id), ("name", name), ("url", url), ("v", VERSION)];
    // The address that counts is in `url`; it may be one that no interface here has (behind NAT).
    // DNS gets those of the interfaces, without which the daemon would not announce on them.
    ServiceInfo::new(SERVICE, id, &format!("{id}.local."), "", port, &texts[..])
        .map(ServiceInfo::enable_addr_auto)
        .map_err(|e| e.to_string())
}

fn found_of<'a>(text: impl Fn(&'static str) -> Option<&'a str>) -> Option<Found> {
    let id = text("id")?;
    let host: HostId = id.parse().ok()?;
    let url = address_url(text("url")?).ok()?;
    let name = text("name").unwrap_or(id).to_owned();
    Some(Found { host: Some(host), key: None, name, url, other_urls: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_is_what_is_found() {
        let host: HostId = "h1".parse().unwrap();
        let advert = Advert { name: "host1".into(), url: "https://10.0.0.1:7460".into() };
        let info = info_of(&advert, &host).unwrap();
        let found = found_of(|key| info.get_property_val_str(key)).unwrap();
        assert_eq!(found.host, Some(host));
        assert_eq!(found.name, advert.name);
        assert_eq!(found.url, advert.url);
    }

    #[test]
    fn nonsense_on_the_network_is_not_found() {
        let of = |id, url| {
            found_of(move |key| match key {
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
}
