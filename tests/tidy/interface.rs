//! docs/api.md against the code: every path, every refusal, every denial and every other problem is
//! in it, and nothing that is in it is missing here.

use std::collections::{BTreeMap, BTreeSet};

use protocol::amounts::Amounts;
use protocol::api::Want;
use protocol::id::{Epoch, HostId, OfferId, TenantId};
use protocol::refusal::{Refusal, examples};
use protocol::ticket::{DenialReason, HoldAt};
use protocol::trust::{Closed, StartRate};

use crate::assert_none;
use crate::openapi::documents;
use crate::repository::{self, TextFile};
use crate::source;

const API: &str = "docs/api.md";

/// Rows of the tables under a heading: the word in backticks of the first cell, and the second cell.
fn rows(document: &str, heading: &str) -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    let start = format!("## {heading}");
    for line in document.lines().skip_while(|line| *line != start).skip(1) {
        if line.starts_with("## ") {
            break;
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, first, second, ..] = cells[..] else { continue };
        let name = first.strip_prefix('`').and_then(|name| name.strip_suffix('`'));
        if let Some(name) = name {
            rows.insert(name.to_owned(), second.to_owned());
        }
    }
    rows
}

fn check_refusals(document: &str, refusals: &[Refusal]) -> Vec<String> {
    let documented = rows(document, "Refusals");
    let mut violations = Vec::new();
    for refusal in refusals {
        let (name, status) = (refusal.name(), refusal.status().to_string());
        match documented.get(name) {
            None => violations.push(format!("{API}: add a row for `{name}` under Refusals")),
            Some(said) if *said != status => {
                violations.push(format!("{API}: `{name}` travels with {status}, not {said}"));
            }
            Some(_) => {}
        }
    }
    let names: BTreeSet<&str> = refusals.iter().map(Refusal::name).collect();
    let gone = documented.keys().filter(|name| !names.contains(name.as_str()));
    violations.extend(gone.map(|name| format!("{API}: there is no refusal `{name}` any more")));
    violations
}

/// One of each denial. A new kind must be added to the match before this compiles.
fn denials() -> Vec<DenialReason> {
    let host = HostId::new("h1").expect("a valid name");
    let tenant = TenantId::default_tenant();
    let (limit, used, asked) = (Amounts::ZERO, Amounts::ZERO, Amounts::ZERO);
    let id = OfferId { epoch: Epoch(1), num: 1 };
    let (rate, is_default, closed) =
        (StartRate { starts: 1, within_s: 60 }, false, Box::new(Closed::example()));
    let of_tenant = tenant.clone();
    let all = vec![
        DenialReason::Silent { for_ms: 1 },
        DenialReason::Rebuilding { missing: 1 },
        DenialReason::Promised { host: host.clone(), id, for_ms: None },
        DenialReason::NotTheLast { hold: HoldAt { host: host.clone(), hold: id } },
        DenialReason::OfferEnded { host, id },
        DenialReason::Quota { tenant, limit, used, asked, at_most: None, left: None },
        DenialReason::Window { tenant: of_tenant.clone(), is_default, closed },
        DenialReason::Rate {
            tenant: of_tenant,
            is_default,
            limit: rate,
            part: 1,
            used: 1,
            for_ms: Some(1),
        },
        DenialReason::OtherTrust { offered: 1, here: 2 },
        DenialReason::Policy { message: String::new() },
    ];
    for denial in &all {
        match denial {
            DenialReason::Silent { .. }
            | DenialReason::Rebuilding { .. }
            | DenialReason::Promised { .. }
            | DenialReason::NotTheLast { .. }
            | DenialReason::OfferEnded { .. }
            | DenialReason::Quota { .. }
            | DenialReason::Window { .. }
            | DenialReason::Rate { .. }
            | DenialReason::OtherTrust { .. }
            | DenialReason::Policy { .. } => {}
        }
    }
    all
}

fn check_denials(document: &str, denials: &[DenialReason]) -> Vec<String> {
    let name = |denial| {
        let json = serde_json::to_value(denial).expect("a denial is always valid JSON");
        json["denial"].as_str().expect("a denial has its name on the wire").to_owned()
    };
    let names: BTreeSet<String> = denials.iter().map(name).collect();
    let documented: BTreeSet<String> = rows(document, "Denials").into_keys().collect();
    let missing = names.difference(&documented);
    let mut violations: Vec<String> =
        missing.map(|name| format!("{API}: add a row for `{name}` under Denials")).collect();
    let gone = documented.difference(&names);
    violations.extend(gone.map(|name| format!("{API}: there is no denial `{name}` any more")));
    violations
}

/// Names of problems that are no refusals, as the code writes them.
fn problems(files: &[TextFile]) -> BTreeMap<String, String> {
    let mut problems = BTreeMap::new();
    for file in files {
        let code = production(&source::code_and_strings(&file.text));
        for start in ["Problem::new(", "ProblemReply::new(", "no("] {
            for (at, _) in code.match_indices(start) {
                if let Some((status, name)) = status_and_name(&code[at + start.len()..]) {
                    problems.insert(name, status);
                }
            }
        }
    }
    problems
}

/// `404, "no-such-run", …`.
fn status_and_name(arguments: &str) -> Option<(String, String)> {
    let (status, rest) = arguments.split_once(',')?;
    let (name, _) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
    let status = status.trim();
    (status.len() == 3 && status.parse::<u16>().is_ok())
        .then(|| (status.to_owned(), name.to_owned()))
}

/// A file up to its unit tests.
fn production(code: &str) -> String {
    code.split("#[cfg(test)]").next().unwrap_or(code).to_owned()
}

fn check_problems(document: &str, files: &[TextFile]) -> Vec<String> {
    let problems = problems(files);
    let documented = rows(document, "Other problems");
    let all: String = files.iter().map(|file| source::code_and_strings(&file.text)).collect();
    let mut violations = Vec::new();
    for (name, status) in &problems {
        match documented.get(name) {
            None => violations.push(format!("{API}: add a row for `{name}` under Other problems")),
            Some(said) if said != status => {
                violations.push(format!("{API}: `{name}` travels with {status}, not {said}"));
            }
            Some(_) => {}
        }
    }
    let gone = documented.keys().filter(|name| {
        !all.contains(&format!("\"{name}\"")) && !all.contains(&format!("urn:ostler:{name}"))
    });
    violations.extend(gone.map(|name| format!("{API}: no code says `{name}` any more")));
    violations
}

/// Paths that routers name.
fn routes(files: &[TextFile]) -> BTreeMap<String, String> {
    let mut routes = BTreeMap::new();
    for file in files {
        let code = production(&source::code_and_strings(&file.text));
        for (at, start) in code.match_indices(".route(") {
            let rest = code[at + start.len()..].trim_start().strip_prefix('"');
            if let Some((path, _)) = rest.and_then(|rest| rest.split_once('"')) {
                routes.insert(path.to_owned(), file.path.clone());
            }
        }
    }
    routes
}

/// Paths in the first cells of tables, such as `PUT /v1/jobs/{id}`.
fn documented_paths(document: &str) -> BTreeSet<String> {
    let cells = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let asks = cells.filter_map(|line| line.split_once('`').map(|(ask, _)| ask));
    let paths = asks.filter_map(|ask| ask.split_once(' ').map(|(_, path)| path));
    let bare = |path: &str| path.split('?').next().unwrap_or(path).to_owned();
    paths.filter(|path| path.starts_with('/')).map(bare).collect()
}

fn check_routes(document: &str, files: &[TextFile]) -> Vec<String> {
    let routes = routes(files);
    let documented = documented_paths(document);
    let missing = routes.iter().filter(|(path, _)| !documented.contains(*path));
    let mut violations: Vec<String> =
        missing.map(|(path, file)| format!("{API}: add a row for `{path}` ({file})")).collect();
    let gone = documented.iter().filter(|path| !routes.contains_key(*path));
    violations.extend(gone.map(|path| format!("{API}: no router has `{path}`")));
    violations
}

/// What an OpenAPI document says: methods with their paths, and problems with their statuses.
fn of_openapi(document: &serde_json::Value) -> (BTreeSet<String>, BTreeSet<(String, String)>) {
    let (mut asks, mut problems) = (BTreeSet::new(), BTreeSet::new());
    let paths = document["paths"].as_object().into_iter().flatten();
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().into_iter().flatten() {
            asks.insert(format!("{} {path}", method.to_uppercase()));
            for (status, response) in operation["responses"].as_object().into_iter().flatten() {
                let names = response["description"].as_str().unwrap_or_default();
                let names = names.split('`').skip(1).step_by(2);
                problems.extend(names.map(|name| (name.to_owned(), status.clone())));
            }
        }
    }
    (asks, problems)
}

/// Methods with their paths in the first cells of the table under a heading.
fn documented_asks(document: &str, heading: &str) -> BTreeSet<String> {
    let asks = rows(document, heading).into_keys();
    asks.map(|ask| ask.split('?').next().unwrap_or(&ask).to_owned()).collect()
}

fn check_openapi(document: &str, heading: &str, openapi: &serde_json::Value) -> Vec<String> {
    let (asks, problems) = of_openapi(openapi);
    let documented = documented_asks(document, heading);
    let missing = documented.difference(&asks);
    let mut violations: Vec<String> =
        missing.map(|ask| format!("OpenAPI of {heading}: add {ask}")).collect();
    let gone = asks.difference(&documented);
    violations.extend(gone.map(|ask| format!("{API}: add a row for `{ask}` under {heading}")));
    let mut said = rows(document, "Refusals");
    said.append(&mut rows(document, "Other problems"));
    for (name, status) in problems {
        // A body of another shape is the one problem with two statuses.
        let is_said = said.get(&name) == Some(&status) || (name == "bad-body" && status == "422");
        if !is_said {
            violations.push(format!("{API}: `{name}` travels with {status}; add or correct it"));
        }
    }
    violations
}

fn shipped() -> Vec<TextFile> {
    let files = repository::files(".rs").into_iter();
    files.filter(|file| !file.is_integration_test() && !file.path.ends_with("tests.rs")).collect()
}

#[test]
fn every_refusal_is_documented() {
    let document = repository::read(API).text;
    assert_none("every refusal is documented", &check_refusals(&document, &examples()));
}

#[test]
fn every_denial_is_documented() {
    let document = repository::read(API).text;
    assert_none("every denial is documented", &check_denials(&document, &denials()));
}

/// What may be asked of a controller, as the table under its heading lists it.
fn check_wants(document: &str, kinds: &[&str]) -> Vec<String> {
    let documented = rows(document, "Wants");
    let missing = kinds.iter().filter(|kind| !documented.contains_key(**kind));
    let mut violations: Vec<String> =
        missing.map(|kind| format!("{API}: add a row for `{kind}` under Wants")).collect();
    let gone = documented.keys().filter(|name| !kinds.contains(&name.as_str()));
    violations.extend(gone.map(|name| format!("{API}: nobody can want `{name}` any more")));
    violations
}

#[test]
fn every_want_is_documented() {
    let document = repository::read(API).text;
    assert_none("every want is documented", &check_wants(&document, &Want::KINDS));
}

#[test]
fn every_other_problem_is_documented() {
    let document = repository::read(API).text;
    assert_none("every other problem is documented", &check_problems(&document, &shipped()));
}

#[test]
fn every_path_is_documented() {
    let document = repository::read(API).text;
    assert_none("every path is documented", &check_routes(&document, &shipped()));
}

#[test]
fn openapi_documents_agree_with_the_tables() {
    let document = repository::read(API).text;
    for (_, heading, openapi) in documents() {
        let violations = check_openapi(&document, heading, &openapi);
        assert_none("OpenAPI documents agree with the tables", &violations);
    }
}

#[test]
fn a_gap_in_the_document_is_caught() {
    let document = "## Refusals\n| `busy` | 500 | x |\n| `gone` | 400 | x |\n## Denials\n| `silent` | x |\n## Other problems\n| `old` | 500 | x |\n";
    let refusals: Vec<Refusal> =
        examples().into_iter().filter(|r| ["busy", "invalid"].contains(&r.name())).collect();
    assert_eq!(check_refusals(document, &refusals).len(), 3, "wrong status, missing, gone");
    let denials = denials();
    assert_eq!(check_denials(document, &denials).len(), denials.len() - 1, "one has its row");

    let wants = check_wants("## Wants\n| `run` | x |\n| `paint` | x |\n", &["run", "stop"]);
    assert_eq!(wants.len(), 2, "one missing, one gone: {wants:?}");

    let code = "//! x\nr.route(\"/v1/x\", get(x));\nProblemReply::new(503, \"new\", d);\n#[cfg(test)]\nProblem::new(1, \"t\", d)\n";
    let files = [TextFile::sample("a/src/b.rs", code)];
    assert_eq!(check_problems(document, &files).len(), 2, "one missing, one gone");
    let paths = "| `GET /v1/y?a=b` | x |\n";
    assert_eq!(check_routes(paths, &files).len(), 2, "one missing, one gone");
    assert!(check_routes("| `GET /v1/x` | x |\n", &files).is_empty());

    let tables =
        "## X\n| `GET /v1/x?a=b` | x |\n| `GET /v1/y` | x |\n## Refusals\n| `busy` | 429 | x |\n";
    let responses =
        serde_json::json!({"429": {"description": "`busy`"}, "409": {"description": "`new`"}});
    let operation = serde_json::json!({ "responses": responses });
    let openapi = serde_json::json!({"paths": {"/v1/x": {"get": operation}, "/v1/z": {"put": {}}}});
    let gaps = check_openapi(tables, "X", &openapi);
    assert_eq!(
        gaps.len(),
        3,
        "one ask missing on each side, one problem nobody explains: {gaps:?}"
    );
}
