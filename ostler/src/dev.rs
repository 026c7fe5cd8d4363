//! `ostler dev`: a whole cluster on this machine, with a first guest in it.
//!
//! ```text
//! DATA/lock            held by the one that runs
//! DATA/dev.json        ports and discovery URL, chosen once          (below DATA/test with --hypervisor test)
//! DATA/discovery.json  who registered
//! DATA/context/        the operator's key and trust document
//! DATA/h1 … h9         each agent's own; DATA/h1/libvirt is its hypervisor's; DATA/h1.log
//! ```
//!
//! Decides the order: discovery in this process, agents as children, then the very bootstrap that a
//! real cluster gets. Everything here may be killed at any instant; guests go on, and the next start
//! adopts them.

mod agents;

mod place;

mod guest;

use std::sync::Arc;
use std::time::Duration;

use bootstrap::{Context, Layout, Options};
use transport::discovery::create_cluster;
use transport::{CancellationToken, Client, Identity, shutdown};

use self::agents::{Agents, Ports};
use self::place::{Lock, Place, hypervisor_of};
use crate::block_on;
use crate::cli::{DevArgs, DevCommand, DevHypervisor, DevUpArgs, Global};
use crate::command::{serve_discovery, tell_step};
use crate::exit::{Code, Failure};
use crate::reaper::Reaper;
use crate::session::Session;
use crate::show;

/// How long agents may take to appear: QEMU is probed at their first start.
const HOSTS_DEADLINE: Duration = Duration::from_secs(90);

/// How long each later step may take.
const STEP_DEADLINE: Duration = Duration::from_secs(60);

/// What the person asked for.
pub(crate) fn run(global: &Global, args: DevArgs) -> Result<Code, Failure> {
    let DevArgs { command, up } = args;
    if let Some(DevCommand::Stop { data }) = command {
        return stop(global, data.or(up.data));
    }
    let data = place::data_folder(up.data.clone());
    match Lock::take(&data)? {
        Lock::Held { pid } => block_on(show_running(global, &data, pid)),
        Lock::Taken(lock) => {
            let code = up_and_wait(global, &up, &data);
            drop(lock);
            code
        }
    }
}

fn up_and_wait(global: &Global, up: &DevUpArgs, data: &std::path::Path) -> Result<Code, Failure> {
    let reaper = Reaper::start()
        .map_err(|error| Failure::new(Code::Failed, "adopt orphans").because(error))?;
    block_on(async {
        let stop = shutdown::on_signals()
            .map_err(|error| Failure::new(Code::Failed, "watch for signals").because(error))?;
        let chosen = hypervisor_of(up.hypervisor, data);
        let mut place = Place::open(data, chosen.kind, up.agents)?;
        let mut agents = Agents::new(Arc::clone(&reaper), &place, global.otlp.as_deref());
        let result = tokio::select! {
            result = come_up(global, up, &mut place, &mut agents, &chosen) => result,
            () = stop.cancelled() => Err(interrupted()),
        };
        if result.is_ok() {
            stop.cancelled().await;
        }
        let fate = match result {
            Ok(()) => guest::fate(&place).await,
            Err(_) => String::new(),
        };
        agents.end().await;
        if !fate.is_empty() && !global.json {
            show::line(&fate);
        }
        result.map(|()| Code::Ok)
    })
}

fn interrupted() -> Failure {
    Failure::new(Code::Interrupted, "interrupted before it was up").next("ostler dev goes on")
}

async fn come_up(
    global: &Global,
    up: &DevUpArgs,
    place: &mut Place,
    agents: &mut Agents,
    chosen: &place::Chosen,
) -> Result<(), Failure> {
    say(global, &chosen.why);
    agents.end_leftovers().await;
    discovery(place).await?;
    agents.start(place, Ports::Own)?;
    if let Err(error) = agents.first_answers(place).await {
        if chosen.is_asked_for || place.kind == DevHypervisor::Test {
            return Err(error);
        }
        say(
            global,
            &format!("{error}\nfalling back to the test hypervisor, whose guests only pretend"),
        );
        agents.end().await;
        *place = Place::open(&place.data, DevHypervisor::Test, up.agents)?;
        discovery(place).await?;
        *agents = Agents::new(agents.reaper(), place, global.otlp.as_deref());
        agents.start(place, Ports::Own)?;
        agents.first_answers(place).await?;
    }
    bootstrap_here(global, place).await?;
    let session = session(global, place)?;
    // The cluster is of use without its first guest, too.
    if let Err(failure) = guest::first(&session, up.image.as_deref(), place, global.json).await {
        show::note(&format!("the first guest is missing: {failure}"));
    }
    tell_how_to_go_on(global, &session, place).await;
    Ok(())
}

/// Serves discovery from now to the end of the process, and opens a cluster there the first time.
async fn discovery(place: &mut Place) -> Result<(), Failure> {
    let file = place.folder.join("discovery.json");
    let stop = CancellationToken::new();
    let started = serve_discovery(place.discovery_addr(), &file, stop).await;
    let (addr, serving) = started.map_err(|failure| {
        failure.next("if another program has the port, end it, or use another --data DIR")
    })?;
    tokio::spawn(serving);
    if place.state.discovery.is_none() {
        let client = Client::new(Arc::new(Identity::ephemeral()));
        let url = create_cluster(&client, &format!("http://{addr}")).await?;
        place.state.discovery = Some(url.full());
        place.save()?;
    }
    Ok(())
}

async fn bootstrap_here(global: &Global, place: &Place) -> Result<(), Failure> {
    let context = Context::at(place.context());
    let agents = usize::from(place.state.agents);
    let options = Options {
        sources: vec![place.discovery_source()?],
        hosts_min: agents,
        operator: Arc::new(context.operator()?),
        context,
        layout: Some(Layout::of_hosts(agents)),
        port_base: Some(place.service_port_base()),
        deadline: HOSTS_DEADLINE,
        step_deadline: STEP_DEADLINE,
    };
    let is_json = global.json;
    let made = bootstrap::bootstrap(options, |event| tell_step(&event, is_json)).await;
    made.map(|_| ()).map_err(|error| {
        let logs = place.folder.join("h*.log");
        crate::command::bootstrap_failed(&error)
            .more(&format!("the agents' logs: {}", logs.display()))
    })
}

fn session(global: &Global, place: &Place) -> Result<Session, Failure> {
    let context = Some(place.context());
    Session::open(&Global { context, hosts: Vec::new(), ..global.clone() })
}

async fn tell_how_to_go_on(global: &Global, session: &Session, place: &Place) {
    let Some(trust) = &session.trust else { return };
    let apis: Vec<(String, String)> = (1..=place.state.agents)
        .map(|n| (format!("agent h{n}"), format!("https://{}", place.agent_addr(n))))
        .chain(trust.arbiters.iter().map(|a| (format!("arbiter {}", a.slot), a.url.clone())))
        .chain(trust.peers.iter().map(|peer| (peer.role.to_string(), peer.url.clone())))
        .chain(place.state.discovery.clone().map(|url| ("discovery".to_owned(), url)))
        .collect();
    if global.json {
        let picture = session.picture().await.ok();
        let jobs = picture.map(|picture| picture.jobs());
        show::json(&serde_json::json!({
            "cluster": trust.cluster, "context": place.context(), "apis": apis, "jobs": jobs,
        }));
        return;
    }
    show::line("");
    for (name, url) in apis {
        show::line(&format!("  {name:<12} {url}"));
    }
    let program = program_name();
    show::line("");
    show::line("try next, in another terminal:");
    show::line(&format!("  export OSTLER_CONTEXT={}", place.context().display()));
    show::line(&format!("  {program} ps"));
    show::line(&format!("  {program} console hello"));
    show::line(&format!("  {program} run --name second --memory 64MiB"));
    show::line(&format!("  {program} ui"));
    show::line("");
    show::line("Ctrl-C ends this; `ostler dev stop` ends the guests too");
}

/// How the person called us, for commands to copy.
pub(crate) fn program_name() -> String {
    std::env::args().next().unwrap_or_else(|| "ostler".to_owned())
}

/// Another one runs: ask its cluster.
async fn show_running(global: &Global, data: &std::path::Path, pid: u32) -> Result<Code, Failure> {
    let place = Place::of_last(data)?;
    say(global, &format!("ostler dev runs already (pid {pid}, {})", place.folder.display()));
    let session = match session(global, &place) {
        Ok(session) if session.trust.is_some() => session,
        _ => {
            say(global, "it is still coming up");
            return Ok(Code::Ok);
        }
    };
    if global.json {
        tell_how_to_go_on(global, &session, &place).await;
        return Ok(Code::Ok);
    }
    match session.picture().await {
        Ok(picture) => {
            let hosts = picture.hosts();
            show::line(&format!("{} hosts answer", hosts.len()));
            for row in picture.jobs() {
                show::line(&format!("  {:<22} {} on {}", row.job.id, row.job.state, row.host_name));
            }
        }
        Err(failure) => show::note(&failure.to_string()),
    }
    tell_how_to_go_on(global, &session, &place).await;
    Ok(Code::Ok)
}

fn say(global: &Global, text: &str) {
    if !global.json {
        show::line(text);
    }
}

/// Ends the guests, then everything else. Works whether or not `ostler dev` runs.
fn stop(global: &Global, data: Option<std::path::PathBuf>) -> Result<Code, Failure> {
    let data = place::data_folder(data);
    if !data.join("last").exists() {
        say(global, &format!("there is nothing in {}", data.display()));
        return Ok(Code::Ok);
    }
    let place = Place::of_last(&data)?;
    match Lock::take(&data)? {
        Lock::Held { pid } => block_on(async {
            guest::end_all(&place, global.json).await?;
            place::terminate(pid, &data).await?;
            say(global, "ostler dev has ended, and its guests");
            Ok(Code::Ok)
        }),
        Lock::Taken(lock) => {
            let reaper = Reaper::start()
                .map_err(|error| Failure::new(Code::Failed, "adopt orphans").because(error))?;
            let code = block_on(async {
                let agents = Agents::new(reaper, &place, None);
                agents.end_leftovers().await;
                agents.start(&place, Ports::Any)?;
                agents.first_answers(&place).await?;
                let ended = guest::end_all(&place, global.json).await;
                agents.end().await;
                ended?;
                say(global, "the guests have ended");
                Ok(Code::Ok)
            });
            drop(lock);
            code
        }
    }
}
