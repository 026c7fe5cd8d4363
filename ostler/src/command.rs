//! One file a subcommand; this one only leads there.

mod bootstrap;

pub(crate) mod run;

pub(crate) mod stop;

pub(crate) mod start;
mod wait;

pub(crate) mod act;

pub(crate) mod rm;

pub(crate) mod adopt;

mod release;

mod migrate;

pub(crate) mod resize;

mod attach;

pub(crate) mod drain;

mod rebalance;

mod retire;

mod fence;
mod fencing;

mod power;

mod arbiters;

mod operators;

mod named_keys;

mod users;

mod readers;

mod prometheus;

mod budget;
mod quota;

mod policy;

pub(crate) mod expect;

mod protect;
mod ps;
mod rank;

mod top;

mod inspect;

mod history;
mod hosts;

pub(crate) mod events;

mod console;
pub(crate) mod screen;

mod log;

mod images;
mod import;

mod taking;

mod clone;

mod backup;

mod networks;

mod pools;

mod volumes;

mod snapshots;

pub(crate) mod runs;

pub(crate) mod plan;

pub(crate) mod why;

mod replay;

mod simulate;

mod doctor;

mod bundle;

mod trust;

mod completion;

mod discovery;

mod agent;

mod roles;

pub(crate) use backup::BackupArgs;
pub(crate) use bootstrap::{failed as bootstrap_failed, tell as tell_step};
pub(crate) use clone::CloneArgs;
pub(crate) use discovery::start as serve_discovery;
pub(crate) use expect::{ExpectArgs, ExpectationsArgs, UnexpectArgs};
pub(crate) use history::HistoryArgs;
pub(crate) use import::import_everywhere;
pub(crate) use plan::PlanArgs;
pub(crate) use pools::PoolsArgs;
pub(crate) use quota::{QuotaRow, rows as quota_rows, usable as quota_usable};
pub(crate) use replay::ReplayArgs;
pub(crate) use resize::is_settled as is_resized;
pub(crate) use simulate::SimulateArgs;
pub(crate) use snapshots::SnapshotsArgs;
pub(crate) use top::look;
pub(crate) use volumes::VolumesArgs;
pub(crate) use why::WhyArgs;

use std::pin::Pin;

use tracing::Instrument as _;

use protocol::trust::Seat;

use self::act::Act;
use crate::cli::{
    Cli, Command, OperatorsArgs, OperatorsCommand, ReadersArgs, ReadersCommand, UsersArgs,
    UsersCommand,
};
use crate::exit::{Code, Failure};
use crate::session::Session;
use crate::traces::Traces;
use crate::{block_on, dev};

/// Runs what the person asked for, with the command's name as it is on the command line.
pub(crate) fn run(cli: Cli, name: &str) -> Result<Code, Failure> {
    let Cli { global, command } = cli;
    let followed = |work| block_on(followed(global.otlp.as_deref(), name, work));
    match command {
        Command::Dev(args) => dev::run(&global, args),
        Command::Bootstrap(args) => followed(Box::pin(bootstrap::run(&global, args))),
        Command::Discovery(command) => block_on(discovery::run(&global, command)),
        Command::Completion(args) => completion::run(args),
        Command::Agent(args) => agent::run(args, &global),
        Command::Arbiter(args) => block_on(roles::arbiter(args, Seat::Arbiter, &global)),
        Command::Witness(args) => block_on(roles::arbiter(args, Seat::Witness, &global)),
        Command::Keeper(args) => roles::keeper(args),
        Command::Monitor(args) => block_on(roles::monitor(args, &global)),
        Command::Controller(args) => block_on(roles::controller(args, &global)),
        Command::Ui(args) => block_on(crate::ui::run(&global, args)),
        Command::Trust(command) => block_on(trust::run(&global, command)),
        Command::Operators(OperatorsArgs { command: Some(OperatorsCommand::Key) })
        | Command::Users(UsersArgs { command: Some(UsersCommand::Key) })
        | Command::Readers(ReadersArgs { command: Some(ReadersCommand::Key) }) => {
            operators::key(&global)
        }
        Command::Backup(args) if args.is_here() => block_on(backup::here(&global, args)),
        Command::Plan(ref args) if args.view.is_some() => {
            plan::offline(&global, args.view.as_deref().unwrap_or("-".as_ref()), args)
        }
        Command::Why(ref args) if args.view.is_some() => why::offline(&global, args),
        Command::Replay(args) => replay::run(&global, args),
        Command::Simulate(args) => simulate::run(&global, &args),
        command => {
            followed(Box::pin(async { user_command(&Session::open(&global)?, command).await }))
        }
    }
}

type Work<'a> = Pin<Box<dyn Future<Output = Result<Code, Failure>> + 'a>>;

/// Does it as the beginning of a trace, if somebody collects those.
async fn followed(collector: Option<&str>, name: &str, work: Work<'_>) -> Result<Code, Failure> {
    let Some(_sent_at_the_end) = Traces::of_command(collector) else { return work.await };
    let span = Traces::root(name);
    let result = work.instrument(span.clone()).await;
    if let Err(failure) = &result {
        // Its words may have a discovery URL in them.
        span.record("otel.status_code", "ERROR");
        span.record("otel.status_description", format!("{:?}", failure.code));
    }
    result
}

async fn user_command(session: &Session, command: Command) -> Result<Code, Failure> {
    match command {
        Command::Run(args) => run::run(session, args).await,
        Command::Stop(args) => stop::run(session, args).await,
        Command::Start(args) => start::run(session, args).await,
        Command::Pause(args) => act::run(session, args, Act::Pause).await,
        Command::Resume(args) => act::run(session, args, Act::Resume).await,
        Command::Save(args) => act::run(session, args, Act::Save).await,
        Command::Reset(args) => act::run(session, args, Act::Reset).await,
        Command::Reboot(args) => act::reboot(session, args).await,
        Command::Wait(args) => wait::run(session, args).await,
        Command::Rm(args) => rm::run(session, args).await,
        Command::Adopt(args) => adopt::run(session, args).await,
        Command::Protect(args) => protect::run(session, args, true).await,
        Command::Unprotect(args) => protect::run(session, args, false).await,
        Command::Rank(args) => rank::run(session, args).await,
        Command::Release(args) => release::run(session, args).await,
        Command::Migrate(args) => migrate::run(session, args).await,
        Command::Resize(args) => resize::run(session, args).await,
        Command::Attach(args) => attach::attach(session, args).await,
        Command::Detach(args) => attach::detach(session, args).await,
        Command::Drain(args) => drain::drain(session, args).await,
        Command::Undrain(args) => drain::undrain(session, args).await,
        Command::Rebalance(args) => rebalance::run(session, args).await,
        Command::Quota(args) => quota::run(session, args).await,
        Command::Budget(args) => budget::run(session, args).await,
        Command::Policy(args) => policy::run(session, args).await,
        Command::Fencing(args) => fencing::run(session, args).await,
        Command::Power(args) => power::run(session, args).await,
        Command::Fence(args) => fence::run(session, args).await,
        Command::Retire(args) => retire::run(session, args).await,
        Command::Expect(args) => expect::expect(session, args).await,
        Command::Unexpect(args) => expect::unexpect(session, args).await,
        Command::Expectations(args) => expect::list(session, args).await,
        Command::Arbiters(args) => arbiters::run(session, args).await,
        Command::Witnesses(args) => arbiters::witnesses::run(session, args).await,
        Command::Operators(args) => operators::run(session, args).await,
        Command::Users(args) => users::run(session, args).await,
        Command::Readers(args) => readers::run(session, args).await,
        Command::Prometheus(args) => prometheus::run(session, args).await,
        Command::Ps(args) => ps::run(session, args).await,
        Command::Top(args) => top::run(session, args).await,
        Command::Inspect(args) => inspect::run(session, args).await,
        Command::Hosts(args) => hosts::run(session, args).await,
        Command::Events(args) => events::run(session, args).await,
        Command::Console(args) => console::run(session, args).await,
        Command::Vnc(args) => screen::vnc(session, args).await,
        Command::Screenshot(args) => screen::screenshot(session, args).await,
        Command::Log(args) => log::run(session, args).await,
        Command::Images(args) => images::run(session, args).await,
        Command::Clone(args) => clone::run(session, args).await,
        Command::Backup(args) => backup::run(session, args).await,
        Command::Pools(args) => pools::run(session, args).await,
        Command::History(args) => history::run(session, args).await,
        Command::Volumes(args) => volumes::run(session, args).await,
        Command::Snapshots(args) => snapshots::run(session, args).await,
        Command::Networks(args) => networks::run(session, args).await,
        Command::Runs(args) => runs::run(session, args).await,
        Command::Plan(args) => plan::run(session, args).await,
        Command::Why(args) => why::run(session, args).await,
        Command::Doctor(command) => doctor::run(session, command).await,
        Command::Bundle(args) => bundle::run(session, args).await,
        Command::Replay(_)
        | Command::Simulate(_)
        | Command::Dev(_)
        | Command::Bootstrap(_)
        | Command::Ui(_)
        | Command::Discovery(_)
        | Command::Trust(_)
        | Command::Completion(_)
        | Command::Agent(_)
        | Command::Arbiter(_)
        | Command::Witness(_)
        | Command::Keeper(_)
        | Command::Monitor(_)
        | Command::Controller(_) => {
            unreachable!("these need no session")
        }
    }
}
