//! `ostler doctor`: what is wrong with the cluster, in words and with an exit code.
//!
//! The comparing is `bootstrap`'s; here is whom to ask and how it looks.

use bootstrap::views::{Difference, Kind};
use bootstrap::{ViewsOptions, ViewsReport, compare_views};
use protocol::job::Role;
use transport::Endpoint;

use crate::cli::DoctorCommand;
use crate::exit::{Code, Failure};
use crate::session::Session;
use crate::show;

pub(crate) async fn run(session: &Session, command: DoctorCommand) -> Result<Code, Failure> {
    match command {
        DoctorCommand::Views { monitor } => views(session, monitor).await,
    }
}

async fn views(session: &Session, more: Vec<String>) -> Result<Code, Failure> {
    let mut monitors = session.peers(Role::Monitor);
    monitors.extend(more.into_iter().map(Endpoint::anyone));
    let options =
        ViewsOptions { trust: session.trust.clone(), sources: session.sources.clone(), monitors };
    let report = compare_views(&session.client, &options).await;
    match session.is_json {
        true => show::json_pretty(&report),
        false => tell(&report),
    }
    Ok(if report.is_clean { Code::Ok } else { Code::Failed })
}

fn tell(report: &ViewsReport) {
    let ViewsReport { is_clean, monitors, hosts, differences, passed, .. } = report;
    for difference in differences {
        show::line(&line_of(difference));
    }
    for difference in passed {
        show::line(&format!("(passed) {}", line_of(difference)));
    }
    if *is_clean {
        show::line(&format!("{monitors} monitors and {hosts} hosts: the views are clean"));
    } else {
        let count = differences.len();
        show::line(&format!("{count} differences between {monitors} monitors and {hosts} hosts"));
    }
}

fn line_of(difference: &Difference) -> String {
    let Difference { kind, monitor, explanation, .. } = difference;
    match monitor {
        Some(monitor) => format!("{:<18} monitor {monitor} {explanation}", word_of(*kind)),
        None => format!("{:<18} {explanation}", word_of(*kind)),
    }
}

/// The word of the JSON output.
fn word_of(kind: Kind) -> String {
    let word = serde_json::to_value(kind).ok();
    word.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}
