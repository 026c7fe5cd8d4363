//! `ostler power`: whether hosts have power, by the devices outside of them, and switching them.
//!
//! Controllers reach the devices, not this command: whichever of them has one for a host is asked. To put a host to
//! sleep is to drain it, as `ostler drain` does, and then to have a controller see that nothing is there and switch it
//! off; what this command has drained in vain it takes into use again.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use protocol::host::HostIntent;
use protocol::id::HostId;
use protocol::job::Role;
use protocol::power::{HostPower, PowerAction, PowerChange, PowerList, PowerState};
use protocol::view::HostRow;
use serde_json::json;
use transport::{CallError, Endpoint, Method};

use super::drain;
use crate::cli::{ArgPower, PowerArgs};
use crate::exit::{Code, Failure};
use crate::picture::{Picture, chain};
use crate::session::Session;
use crate::show;

/// How long devices may take to say how they are.
const ASK_PATIENCE: Duration = Duration::from_secs(100);

/// How long switching may take: an order, and until the devices say so, twice for off and on.
const SWITCH_PATIENCE: Duration = Duration::from_secs(400);

/// See the module.
pub(crate) async fn run(session: &Session, args: PowerArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let Some(text) = &args.host else { return list(session, &picture).await };
    let row = picture.host(text)?;
    let switch = Switch::of(session, row).await?;
    let power = match args.action {
        None => switch.power,
        Some(ArgPower::Sleep) => return sleep(session, &picture, row, &switch, args.force).await,
        Some(action) => switch.turn(session, action.into(), args.force).await?,
    };
    let code = if power.state.is_some() { Code::Ok } else { Code::Failed };
    tell(session, &power, &format!("{}: {}", row.host.name, words(&power)));
    Ok(code)
}

/// Empties a host if it has to be, and has it switched off.
async fn sleep(
    session: &Session,
    picture: &Picture,
    row: &HostRow,
    switch: &Switch,
    force: bool,
) -> Result<Code, Failure> {
    let (id, name) = (&row.host.id, &row.host.name);
    if picture.asleep.contains_key(id) {
        return Ok(tell_asleep(session, name, &switch.power, "asleep already"));
    }
    let change = PowerChange { action: PowerAction::Sleep, force, undrain: false };
    // Whatever stands in the way for good is told before any guest moves.
    let refused = match switch.order(session, &change).await {
        Ok(power) => {
            return Ok(tell_asleep(
                session,
                name,
                &power,
                "asleep, and drained as it was: no run wakes it",
            ));
        }
        Err(error) => error,
    };
    let is_to_be_drained = refused.problem().is_some_and(|p| p.name() == "not-drained");
    let was_drained = row.host.intent == Some(HostIntent::Drain);
    if !is_to_be_drained {
        return Err(why_awake(name, refused));
    }
    let emptied = drain::empty(session, picture, id).await;
    let change = PowerChange { undrain: !was_drained, ..change };
    let failure = match emptied {
        Ok(Code::Ok) => match switch.order(session, &change).await {
            Ok(power) => return Ok(tell_asleep(session, name, &power, "asleep")),
            Err(error) if is_refused(&error) => why_awake(name, error),
            // It may be off in a moment: nothing may come there now.
            Err(error) => {
                show::note(&format!(
                    "whether {name} is off is not known yet, and it stays drained"
                ));
                return Err(Failure::from(error).next(format!("ostler power {name}; ostler hosts")));
            }
        },
        Ok(code) => return Ok(code),
        Err(failure) => failure,
    };
    if !was_drained {
        drain::intend(session, picture, id, None).await?;
        show::note(&format!("{name} stays awake, and takes what fits"));
    }
    Err(failure)
}

/// Whether it was said that nothing was switched.
fn is_refused(error: &CallError) -> bool {
    let names = ["cannot-sleep", "not-drained"];
    error.problem().is_some_and(|problem| names.contains(&problem.name()))
}

fn why_awake(name: &str, error: CallError) -> Failure {
    match error.problem() {
        Some(problem) if is_refused(&error) => {
            Failure::new(Code::Refused, format!("{name} is not put to sleep: {}", problem.detail))
        }
        _ => Failure::from(error),
    }
}

fn tell_asleep(session: &Session, name: &str, power: &HostPower, how: &str) -> Code {
    tell(session, power, &format!("{name}: {how}; {}", words(power)));
    Code::Ok
}

/// How it is, and the same as a sentence.
fn tell(session: &Session, power: &HostPower, sentence: &str) {
    if session.is_json {
        let mut told = json!(power);
        told["notes"] = json!([sentence]);
        return show::json_pretty(&told);
    }
    show::line(sentence);
}

fn words(power: &HostPower) -> String {
    let devices = power.devices.join(" and ");
    match (&power.state, &power.problem) {
        (Some(state), _) => format!("{state}, by {devices}"),
        (None, problem) => {
            format!("not known: {}", problem.as_deref().unwrap_or("nobody says why"))
        }
    }
}

/// Every host that a controller can switch. A device that does not answer is a row too.
async fn list(session: &Session, picture: &Picture) -> Result<Code, Failure> {
    let answers = ask_all::<PowerList>(session, "/v1/power").await?;
    let mut known: BTreeMap<HostId, HostPower> = BTreeMap::new();
    let mut unknown = Vec::new();
    for (_, answer) in answers {
        let list = answer?;
        unknown.extend(list.unknown);
        for power in list.hosts {
            let has_none = known.get(&power.host).is_none_or(|known| known.state.is_none());
            if has_none {
                known.insert(power.host.clone(), power);
            }
        }
    }
    unknown.sort_unstable();
    unknown.dedup();
    let notes = notes(&unknown, known.is_empty());
    if session.is_json {
        let hosts: Vec<&HostPower> = known.values().collect();
        show::json_pretty(&json!({ "hosts": hosts, "unknown": unknown, "notes": notes }));
        return Ok(Code::Ok);
    }
    notes.iter().for_each(|note| show::note(note));
    let cells = |power: &HostPower| {
        let row = picture.view.host(&power.host);
        let name = row.map_or_else(|| power.host.short().to_owned(), |row| row.host.name.clone());
        let state = power.state.map_or("not known".to_owned(), |state| state.to_string());
        [name, state, power.devices.join(", "), power.problem.clone().unwrap_or_default()]
    };
    show::table(["HOST", "POWER", "DEVICES", "PROBLEM"], known.values().map(cells).collect());
    Ok(Code::Ok)
}

/// What there is to say besides a list of hosts.
fn notes(unknown: &[String], is_empty: bool) -> Vec<String> {
    let strange = |name: &String| {
        format!("warning: a power file names {name}: no host or several are called that")
    };
    let none = "no controller can switch a host: none has a power file, /etc/ostler/power.json on the \
                controller's host";
    let none = is_empty.then(|| none.to_owned());
    unknown.iter().map(strange).chain(none).collect()
}

/// What switches one host, and who reaches it.
pub(crate) struct Switch {
    controller: Endpoint,
    host: HostId,
    /// What the devices said.
    pub(crate) power: HostPower,
}

impl Switch {
    /// Asks every controller; one whose devices answer is best.
    pub(crate) async fn of(session: &Session, row: &HostRow) -> Result<Self, Failure> {
        let host = row.host.id.clone();
        let path = format!("/v1/power/{host}");
        let (mut found, mut refused): (Vec<Self>, Option<CallError>) = (Vec::new(), None);
        for (controller, answer) in ask_all::<HostPower>(session, &path).await? {
            match answer {
                Ok(power) => found.push(Self { controller, host: host.clone(), power }),
                // One that has no device for the host says less than one whose file is broken.
                Err(error) if refused.is_none() || !is_without_device(&error) => {
                    refused = Some(error);
                }
                Err(_) => {}
            }
        }
        found.sort_by_key(|switch| switch.power.state.is_none());
        if let Some(best) = found.into_iter().next() {
            return Ok(best);
        }
        let name = &row.host.name;
        let failure = match &refused {
            Some(error) if !is_without_device(error) => {
                Failure::new(Code::Failed, format!("the power of {name} is not known"))
            }
            _ => Failure::new(Code::NotFound, format!("no controller can switch {name}")).next(
                format!(
                    "name its device in /etc/ostler/power.json on the host of each controller, for \
                     {name} or {host}"
                ),
            ),
        };
        Err(match refused {
            Some(error) => failure.because(error),
            None => failure,
        })
    }

    /// Switches it; what the devices say then.
    pub(crate) async fn turn(
        &self,
        session: &Session,
        action: PowerAction,
        force: bool,
    ) -> Result<HostPower, Failure> {
        let change = PowerChange { action, force, undrain: false };
        self.order(session, &change).await.map_err(|error| match error.problem() {
            Some(problem) if problem.name() == "host-alive" => {
                Failure::new(Code::Refused, problem.detail.replace("say force", "say --force"))
            }
            _ => Failure::from(error),
        })
    }

    async fn order(&self, session: &Session, change: &PowerChange) -> Result<HostPower, CallError> {
        let client = session.client.with_deadline(SWITCH_PATIENCE);
        let path = format!("/v1/power/{}", self.host);
        client.send(Method::POST, &self.controller, &path, change).await.map(|reply| reply.body)
    }

    /// What the devices say now.
    pub(crate) async fn state(&self, session: &Session) -> Result<Option<PowerState>, Failure> {
        let client = session.client.with_deadline(ASK_PATIENCE);
        let path = format!("/v1/power/{}", self.host);
        let power: HostPower = client.get(&self.controller, &path).await?;
        Ok(power.state)
    }
}

fn is_without_device(error: &CallError) -> bool {
    error.problem().is_some_and(|problem| problem.name() == "no-power-device")
}

/// What each controller that can be reached answers.
pub(super) async fn ask_all<T: serde::de::DeserializeOwned>(
    session: &Session,
    path: &str,
) -> Result<Vec<(Endpoint, Result<T, CallError>)>, Failure> {
    let controllers = session.peers(Role::Controller);
    if session.is_direct || controllers.is_empty() {
        let what = "controllers switch hosts, and none is known here";
        return Err(Failure::usage(what)
            .next("use the context of a cluster that was bootstrapped, without --hosts"));
    }
    let client = session.client.with_deadline(ASK_PATIENCE);
    let asked = controllers.into_iter().map(|controller| {
        let client = client.clone();
        async move {
            let answer = client.get::<T>(&controller, path).await;
            (controller, answer)
        }
    });
    let (answers, silent): (Vec<_>, Vec<_>) =
        join_all(asked).await.into_iter().partition(|(_, answer)| {
            answer.is_ok() || answer.as_ref().is_err_and(|e| e.problem().is_some())
        });
    if answers.is_empty() {
        let failure = Failure::new(Code::Unreachable, "no controller answers")
            .next("ostler bootstrap (it is safe to repeat)");
        return Err(match silent.into_iter().find_map(|(_, answer)| answer.err()) {
            Some(error) => failure.because(error),
            None => failure,
        });
    }
    for (controller, answer) in silent {
        if let Err(error) = answer {
            show::note(&format!("warning: controller {controller}: {}", chain(&error)));
        }
    }
    Ok(answers)
}
