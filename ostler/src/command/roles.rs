//! `ostler arbiter`, `ostler witness`, `ostler monitor`, `ostler controller`: what agents start as services.

use protocol::trust::Seat;
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use transport::{CancellationToken, Clock, Endpoint, shutdown};

use crate::cli::{ControllerArgs, Global, KeeperArgs, MonitorArgs, RoleArgs};
use crate::exit::{Code, Failure};
use crate::traces::Traces;

/// Log lines go to standard error; `OSTLER_LOG` says which, such as `debug` or `transport=debug`. Traces go
/// to the collector, if there is one, until what is returned is dropped.
#[must_use]
pub(crate) fn start_log(role: &str, collector: Option<&str>) -> Option<Traces> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("OSTLER_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // A second start (tests) changes nothing.
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(is_terminal);
    let subscriber = tracing_subscriber::registry().with(log.with_filter(filter));
    let traces = Traces::start(&format!("ostler-{role}"), collector);
    let _ = match &traces {
        None => subscriber.try_init(),
        Some(traces) => subscriber.with(traces.layer()).try_init(),
    };
    traces
}

/// An arbiter, or a witness, which is one without books: the trust document says what it is.
pub(crate) async fn arbiter(args: RoleArgs, seat: Seat, global: &Global) -> Result<Code, Failure> {
    let role = seat.to_string();
    let (stop, _traces) = start(&role, global.otlp.as_deref())?;
    let RoleArgs { data_dir, listen, trust_file, ready_file, discovery } = args;
    let options = arbiter::Options { data_dir, listen, trust_file, ready_file, discovery, seat };
    ended(&role, arbiter::serve(options, Clock::real(), stop).await)
}

/// One thread: nothing it does takes long, and its memory is little.
pub(crate) fn keeper(args: KeeperArgs) -> Result<Code, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::new(Code::Failed, "start the keeper").because(error))?;
    runtime.block_on(async {
        let (stop, _) = start("keeper", None)?;
        let KeeperArgs { data_dir, partition, watchdog } = args;
        let options = host_agent::keeper::KeeperOptions { data_dir, partition, watchdog };
        ended("keeper", host_agent::keeper::keep(options, Clock::real(), stop).await)
    })
}

pub(crate) async fn monitor(args: MonitorArgs, global: &Global) -> Result<Code, Failure> {
    let (stop, _traces) = start("monitor", global.otlp.as_deref())?;
    let follow = args.follow.into_iter().map(Endpoint::anyone).collect();
    let RoleArgs { data_dir, listen, trust_file, ready_file, discovery } = args.role;
    let options = monitor::Options { data_dir, listen, trust_file, ready_file, discovery, follow };
    ended("monitor", monitor::serve(options, Clock::real(), stop).await)
}

pub(crate) async fn controller(args: ControllerArgs, global: &Global) -> Result<Code, Failure> {
    let (stop, _traces) = start("controller", global.otlp.as_deref())?;
    let ControllerArgs { role, power_file } = args;
    let RoleArgs { data_dir, listen, trust_file, ready_file, discovery } = role;
    let options =
        controller::Options { data_dir, listen, trust_file, ready_file, discovery, power_file };
    ended("controller", controller::serve(options, Clock::real(), stop).await)
}

fn start(
    role: &str,
    collector: Option<&str>,
) -> Result<(CancellationToken, Option<Traces>), Failure> {
    let traces = start_log(role, collector);
    let stop = shutdown::on_signals();
    let stop =
        stop.map_err(|error| Failure::new(Code::Failed, "watch for signals").because(error))?;
    Ok((stop, traces))
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
