//! `ostler bootstrap`: the library's steps as lines for people, or as JSON, one event a line.

use std::sync::Arc;
use std::time::Duration;

use bootstrap::{BootstrapError, Kind, Layout, Options, StepEvent, StepState, Summary};
use transport::discovery::Source;

use crate::cli::{BootstrapArgs, Global};
use crate::exit::{Code, Failure};
use crate::session::context_of;
use crate::show;

/// How long each step after the waiting for hosts may take.
const STEP_MS_MAX: u64 = 60_000;

pub(crate) async fn run(global: &Global, args: BootstrapArgs) -> Result<Code, Failure> {
    let context = context_of(global);
    let sources = sources(global, &args, &context)?;
    let hosts_min = args.hosts_min.unwrap_or_else(|| global.hosts.len().max(1));
    let monitors = args.monitors;
    let options = Options {
        operator: Arc::new(context.operator()?),
        sources,
        hosts_min,
        layout: Some(Layout {
            arbiters: args.arbiters,
            monitors: monitors.unwrap_or(Layout::of_hosts(hosts_min).monitors),
            controllers: args.controllers,
            witnesses: args.witnesses,
            liars: args.liars,
        }),
        port_base: (args.port_base != 0).then_some(args.port_base),
        deadline: Duration::from_millis(args.timeout.0),
        step_deadline: Duration::from_millis(STEP_MS_MAX),
        context,
    };
    let is_json = global.json;
    match bootstrap::bootstrap(options, |event| tell(&event, is_json)).await {
        Ok(summary) => {
            conclude(&summary, global);
            Ok(Code::Ok)
        }
        Err(error) => Err(failed(&error)),
    }
}

/// As given; else as the last time.
fn sources(
    global: &Global,
    args: &BootstrapArgs,
    context: &bootstrap::Context,
) -> Result<Vec<Source>, Failure> {
    let mut sources: Vec<Source> = global.hosts.iter().chain(&args.discovery).cloned().collect();
    sources.extend(args.mdns.then_some(Source::Mdns));
    if sources.is_empty() {
        let kept = context.sources()?;
        sources = kept.iter().filter_map(|source| source.parse().ok()).collect();
    }
    if sources.is_empty() {
        return Err(Failure::usage("no place to look for hosts is given").next(
            "ostler bootstrap --hosts a,b,c, --discovery URL (see `ostler discovery new`) or --mdns",
        ));
    }
    Ok(sources)
}

pub(crate) fn tell(event: &StepEvent, is_json: bool) {
    if is_json {
        show::json(event);
        return;
    }
    let StepEvent { id, state, detail, elapsed_ms } = event;
    let word = match state {
        StepState::Start => "…",
        StepState::Done => "done",
        StepState::Already => "already",
        StepState::Failed => "FAILED",
    };
    show::line(&format!("{:>7}  {id:<17} {word:<8} {detail}", show::took(*elapsed_ms)));
}

fn conclude(summary: &Summary, global: &Global) {
    if global.json {
        show::json(&serde_json::json!({ "summary": summary }));
        return;
    }
    let flag = match &global.context {
        Some(folder) if std::env::var_os("OSTLER_CONTEXT").is_none() => {
            format!(" --context {}", folder.display())
        }
        _ => String::new(),
    };
    show::line("");
    show::line("try next:");
    show::line(&format!("  ostler{flag} hosts"));
    show::line(&format!("  ostler{flag} images import FILE --name NAME"));
    show::line(&format!("  ostler{flag} run NAME --name web-1"));
    for warning in &summary.warnings {
        show::note(&format!("warning: {warning}"));
    }
}

/// The library's error has everything to tell already.
pub(crate) fn failed(error: &BootstrapError) -> Failure {
    let code = match error.kind {
        Kind::Failed => Code::Failed,
        Kind::Refused => Code::Refused,
        Kind::TimedOut => Code::Unreachable,
    };
    let mut what = format!("bootstrap stopped at {}: {}", error.step, error.what);
    for reason in &error.reasons {
        what += &format!("\n  - {reason}");
    }
    if let Some(log) = &error.log {
        what += "\n  its last log lines:";
        for line in log.lines() {
            what += &format!("\n    {line}");
        }
    }
    Failure::new(code, what).next(error.next.clone())
}
