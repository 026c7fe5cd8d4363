//! `ostler ui`: the page in a browser, served to this machine alone and speaking for its operator.
//!
//! A browser can't prove a key, so it never reaches the cluster: it asks this process, on loopback,
//! and this process asks monitors, controllers and agents as every command does.
//!
//! ```text
//!   browser ──▶ gate (Host, Origin, cookie) ──▶ page, feed, ask, console ──▶ Session ══▶ the cluster
//!                                          │      ▲ what is new                              ▲
//!                                          │      └─ replica ◀── follower ◀══ monitor, or the agents
//!                                          └──▶ chores, lists ──▶ `ostler …`, a process ═════╝
//! ```

mod gate;

mod files;

mod replica;

mod follower;

mod cluster;

mod runs;

mod rows;

mod news;

mod feed;

mod ask;

mod look;

mod program;

mod chore;

mod chores;

mod workers;

mod lists;

mod console;

mod serve;

use std::net::SocketAddr;

use serde_json::json;
use transport::shutdown;

use crate::cli::Global;
use crate::exit::{Code, Failure};
use crate::session::Session;
use crate::show;

/// See the module.
#[derive(Debug, clap::Args)]
pub(crate) struct UiArgs {
    /// Where the page is: an address of this machine alone; port 0 takes any that is free
    #[arg(long, default_value = "127.0.0.1:7461", value_name = "IP:PORT", value_parser = loopback)]
    listen: SocketAddr,
    /// Where the page's backups are, a folder of this machine; without it the page makes none
    #[arg(long, value_name = "FOLDER", value_parser = folder)]
    backups: Option<String>,
}

/// Serves until it is told to stop.
pub(crate) async fn run(global: &Global, args: UiArgs) -> Result<Code, Failure> {
    let session = Session::open(global)?;
    let stop = shutdown::on_signals()
        .map_err(|error| Failure::new(Code::Failed, "watch for signals").because(error))?;
    let page = serve::Page::bind(global.clone(), session, args, stop).await?;
    if global.json {
        show::json(&json!({ "url": page.url(), "listen": page.addr() }));
    } else {
        show::line(&page.url());
        show::note(
            "open this in a browser on this machine; whoever has the address may do what you may. Ctrl-C ends it",
        );
    }
    page.serve().await;
    Ok(Code::Ok)
}

/// An address that only this machine reaches.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let addr: SocketAddr =
        text.parse().map_err(|_| format!("{text:?} is no address: write 127.0.0.1:PORT"))?;
    if addr.ip().is_loopback() {
        return Ok(addr);
    }
    let port = addr.port();
    Err(format!(
        "{addr} is reached from elsewhere, and what travels to the page is not encrypted: use \
         127.0.0.1:{port}, and from elsewhere `ssh -L {port}:127.0.0.1:{port}`"
    ))
}

/// A folder by its whole path, as a page shows it; it need not be there yet.
fn folder(text: &str) -> Result<String, String> {
    let path = std::path::absolute(text).map_err(|error| format!("{text:?}: {error}"))?;
    path.into_os_string().into_string().map_err(|_| format!("{text:?} has no name in UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_served() {
        assert!(loopback("127.0.0.1:7461").is_ok());
        assert!(loopback("[::1]:0").is_ok());
        for wide in ["0.0.0.0:7461", "[::]:7461", "10.0.0.1:7461", "localhost:7461"] {
            assert!(loopback(wide).is_err(), "{wide} was taken");
        }
        assert!(loopback("0.0.0.0:80").unwrap_err().contains("ssh -L 80:127.0.0.1:80"));
    }
}
