//! Where others reach this host and what it is called; and noticing when that has changed.
//!
//! A host is its key. An agent that was told to listen everywhere looks now and then which address
//! the machine's routes choose, and one that was given no name which name the machine has. Who has
//! to be told of a change: the core (for the view), discovery, and the services' endpoints.
//!
//! ```text
//! every second: own address, hostname ── changed ──▶ Place ──▶ core, announcements, services
//! ```

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use transport::discovery::Advert;

use crate::core::Input;
use crate::shell::Post;

/// How often the machine is asked. Two system calls; others need seconds to miss us.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Where a host is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// What it is called.
    pub name: String,
    /// Where others reach it.
    pub address: IpAddr,
    /// Its agent's port.
    pub port: u16,
}

impl Place {
    /// Where the agent answers.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", SocketAddr::new(self.address, self.port))
    }

    /// A service's url with this address in place of "everywhere".
    pub(crate) fn url_here(&self, url: &str) -> String {
        let addr = url.strip_prefix("https://").and_then(|addr| addr.parse::<SocketAddr>().ok());
        match addr {
            Some(addr) if addr.ip().is_unspecified() => {
                format!("https://{}", SocketAddr::new(self.address, addr.port()))
            }
            _ => url.to_owned(),
        }
    }

    fn look(&self, is_renaming: bool, is_moving: bool) -> Self {
        // Without a route there is no address for now; the last one may come back.
        let address = is_moving.then(transport::own_address).and_then(Result::ok);
        let name = is_renaming.then(hostname).flatten();
        Self {
            name: name.unwrap_or_else(|| self.name.clone()),
            address: address.unwrap_or(self.address),
            port: self.port,
        }
    }
}

/// What the machine is called.
pub(crate) fn hostname() -> Option<String> {
    sysinfo::System::host_name().ok()
}

/// Looks until `shutdown`, if anything may change at all.
pub(crate) fn watch(
    place: Place,
    is_renaming: bool,
    is_moving: bool,
    shutdown: CancellationToken,
) -> watch::Receiver<Place> {
    let (publish, places) = watch::channel(place);
    if !is_renaming && !is_moving {
        return places;
    }
    tokio::spawn(async move {
        let looking = async {
            loop {
                tokio::time::sleep(LOOK_INTERVAL).await;
                publish.send_if_modified(|place| {
                    let now = place.look(is_renaming, is_moving);
                    let is_news = *place != now;
                    *place = now;
                    is_news
                });
            }
        };
        shutdown.run_until_cancelled(looking).await;
    });
    places
}

/// Tells the core and discovery of every change.
pub(crate) async fn follow(
    mut places: watch::Receiver<Place>,
    adverts: watch::Sender<Advert>,
    posts: mpsc::Sender<Post>,
) {
    while places.changed().await.is_ok() {
        let place = places.borrow_and_update().clone();
        let url = place.url();
        tracing::info!(name = %place.name, %url, "this host is called or reached otherwise now");
        adverts.send_modify(|advert| {
            (advert.name, advert.url) = (place.name.clone(), url.clone());
        });
        let input = Input::Placed { name: place.name, url };
        if posts.send(Post::Input(input)).await.is_err() {
            return;
        }
    }
    // The adverts stay what they are for as long as the agent lives.
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(address: &str) -> Place {
        Place { name: "h1".into(), address: address.parse().unwrap(), port: 7460 }
    }

    #[test]
    fn addresses_follow_the_host() {
        let here = place("10.0.0.9");
        assert_eq!(here.url(), "https://10.0.0.9:7460");
        assert_eq!(here.url_here("https://0.0.0.0:7470"), "https://10.0.0.9:7470");
        assert_eq!(here.url_here("https://[::]:7470"), "https://10.0.0.9:7470");
        assert_eq!(here.url_here("https://10.0.0.1:7470"), "https://10.0.0.1:7470");
        assert_eq!(place("fd00::9").url(), "https://[fd00::9]:7460");
    }
}
