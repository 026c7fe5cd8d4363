//! `ostler arbiter`, `ostler monitor`, `ostler controller`: what agents start as services.

use transport::{CancellationToken, Clock, Endpoint, shutdown};

use crate::cli::{ControllerArgs, KeeperArgs, MonitorArgs, RoleArgs};
use crate::exit::{Code, Failure};

/// Log lines go to standard error; `OSTLER_LOG` says which, such as `debug` or `transport=debug`.
pub(crate) fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("OSTLER_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // A second start (tests) changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal)
        .try_init();
}

pub(crate) async fn arbiter(args: RoleArgs) -> Result<Code, Failure> {
    let stop = start()?;
    let RoleArgs { data_dir, listen, trust_file, ready_file, discovery } = args;
    let options = arbiter::Options { data_dir, listen, trust_file, ready_file, discovery };
    ended("arbiter", arbiter::serve(options, Clock::real(), stop).await)
}

/// One thread: nothing it does takes long, and its memory is little.
pub(crate) fn keeper(args: KeeperArgs) -> Result<Code, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::new(Code::Failed, "start the keeper").because(error))?;
    runtime.block_on(async {
        let stop = start()?;
        let KeeperArgs { data_dir, partition } = args;
        let options = host_agent::keeper::KeeperOptions { data_dir, partition };
        ended("keeper", host_agent::keeper::keep(options, Clock::real(), stop).await)
    })
}

pub(crate) async fn monitor(args: MonitorArgs) -> Result<Code, Failure> {
    let stop = start()?;
    let follow = args.follow.into_iter().map(Endpoint::anyone).collect();
    let RoleArgs { data_dir, listen, trust_file, ready_file, discovery } = args.role;
    let options = monitor::Options { data_dir, listen, trust_file, ready_file, discovery, follow };
    ended("monitor", monitor::serve(options, Clock::real(), stop).await)
}

pub(crate) async fn controller(args: ControllerArgs) -> Result<Code, Failure> {
    let stop = start()?;
    let ControllerArgs { role, power_file } = args;
    let RoleArgs { data_dir, listen, trust_file, ready_file, discovery } = role;
    let options =
        controller::Options { data_dir, listen, trust_file, ready_file, discovery, power_file };
    ended("controller", controller::serve(options, Clock::real(), stop).await)
}

fn start() -> Result<CancellationToken, Failure> {
    start_log();
    shutdown::on_signals()
        .map_err(|error| Failure::new(Code::Failed, "watch for signals").because(error))
}

fn ended<E: std::error::Error + Send + Sync + 'static>(
    role: &str,
    result: Result<(), E>,
) -> Result<Code, Failure> {
    match result {
        Ok(()) => Ok(Code::Ok),
        Err(error) => Err(Failure::new(Code::Failed, format!("run the {role}")).because(error)),
    }
}
