//! The interface of a role as data for machines: an OpenAPI 3.1 document, made from the very types
//! that travel.
//!
//! A role lists its [`Operation`]s; this adds what all our servers have in common (the problems of
//! [`crate::problem`], each with its status) and writes the document. Which operations there are
//! is the role's affair; that its router has just these is a house rule (`tests/openapi`).

use std::collections::{BTreeMap, BTreeSet};

use axum::response::{IntoResponse as _, Response};
use http::Method;
use http::header::CONTENT_TYPE;
use protocol::refusal::{Problem, examples};
use protocol::trust::Right;
use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform as _};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::problem::PROBLEM_JSON;

/// Problems that are no refusals, with every status they travel with; docs/api.md explains each.
const PROBLEMS: [(&str, &[u16]); 38] = [
    ("no-such-file", &[404]),
    ("no-such-range", &[416]),
    ("no-such-path", &[404]),
    ("no-such-method", &[405]),
    ("bad-request", &[400]),
    ("bad-body", &[400, 422]),
    ("not-json", &[415]),
    ("body-too-large", &[413]),
    ("broken-body", &[400]),
    ("upgrade-required", &[426]),
    ("internal", &[500]),
    ("stopping", &[503]),
    ("no-log", &[404]),
    ("no-hypervisor", &[503]),
    ("not-listening", &[503]),
    ("storage", &[507]),
    ("bad-query", &[400]),
    ("too-many-hosts", &[400]),
    ("no-such-host", &[404]),
    ("not-confirmed", &[504]),
    ("no-arbiter", &[503]),
    ("no-such-run", &[404]),
    ("run-id-in-use", &[422]),
    ("run-in-progress", &[409]),
    ("run-past-return", &[409]),
    ("run-damaged", &[503]),
    ("storage-broken", &[503]),
    ("expected-otherwise", &[409]),
    ("no-such-expectations", &[404]),
    ("expectations-changed", &[409]),
    ("expectations-clash", &[409]),
    ("too-many-expectations", &[409]),
    ("no-power-device", &[404]),
    ("power-file", &[503]),
    ("power-device", &[502]),
    ("host-alive", &[409]),
    ("cannot-sleep", &[409]),
    ("not-drained", &[409]),
];

/// Answers with a document as it is committed.
#[must_use]
pub fn reply(text: &'static str) -> Response {
    ([(CONTENT_TYPE, "application/json")], text).into_response()
}

/// Reads something.
#[must_use]
pub fn get(path: &'static str, summary: &'static str) -> Operation {
    Operation::new(Method::GET, path, summary)
}

/// Has something so, however often it is sent.
#[must_use]
pub fn put(path: &'static str, summary: &'static str) -> Operation {
    Operation::new(Method::PUT, path, summary)
}

/// Has something done.
#[must_use]
pub fn post(path: &'static str, summary: &'static str) -> Operation {
    Operation::new(Method::POST, path, summary)
}

/// Has something gone.
#[must_use]
pub fn delete(path: &'static str, summary: &'static str) -> Operation {
    Operation::new(Method::DELETE, path, summary)
}

/// What a type looks like, once somebody collects the types it is made of.
type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// One method of one path: what it takes and every way it answers.
#[derive(Debug)]
pub struct Operation {
    method: Method,
    path: &'static str,
    summary: &'static str,
    right: Option<Right>,
    parameters: Vec<Parameter>,
    body: Option<Content>,
    answers: BTreeMap<u16, Option<Content>>,
    problems: BTreeSet<&'static str>,
}

#[derive(Debug)]
enum Parameter {
    Path(&'static str, SchemaOf),
    Header(&'static str, SchemaOf),
    /// A struct whose fields are parameters.
    Query(SchemaOf),
}

#[derive(Debug, Clone, Copy)]
struct Content {
    media: &'static str,
    schema: SchemaOf,
}

fn json_of<T: JsonSchema>() -> Content {
    Content { media: "application/json", schema: SchemaGenerator::subschema_for::<T> }
}

impl Operation {
    /// `path` is as the router has it.
    #[must_use]
    pub fn new(method: Method, path: &'static str, summary: &'static str) -> Self {
        Self {
            method,
            path,
            summary,
            right: None,
            parameters: Vec::new(),
            body: None,
            answers: BTreeMap::new(),
            problems: BTreeSet::from(["internal"]),
        }
    }

    /// Who may ask, on a host with trust; without this, everybody.
    #[must_use]
    pub fn right(mut self, right: Right) -> Self {
        self.right = Some(right);
        self.refuses(&["forbidden"])
    }

    /// A part of the path, `{name}` in it.
    #[must_use]
    pub fn path<T: JsonSchema>(mut self, name: &'static str) -> Self {
        self.parameters.push(Parameter::Path(name, SchemaGenerator::subschema_for::<T>));
        self.refuses(&["bad-request"])
    }

    /// The fields of a struct as parameters of the query.
    #[must_use]
    pub fn query<T: JsonSchema>(mut self) -> Self {
        self.parameters.push(Parameter::Query(T::json_schema));
        self.refuses(&["bad-request"])
    }

    /// A header that must be there.
    #[must_use]
    pub fn header<T: JsonSchema>(mut self, name: &'static str) -> Self {
        self.parameters.push(Parameter::Header(name, SchemaGenerator::subschema_for::<T>));
        self
    }

    /// Takes this as JSON.
    #[must_use]
    pub fn body<T: JsonSchema>(mut self) -> Self {
        self.body = Some(json_of::<T>());
        self.refuses(&["bad-body", "not-json", "body-too-large"])
    }

    /// Takes a file.
    #[must_use]
    pub fn file(mut self) -> Self {
        self.body = Some(Content { media: "application/octet-stream", schema: any });
        self.refuses(&["body-too-large", "broken-body"])
    }

    /// Answers this as JSON.
    #[must_use]
    pub fn answers<T: JsonSchema>(mut self, status: u16) -> Self {
        self.answers.insert(status, Some(json_of::<T>()));
        self
    }

    /// Answers a text.
    #[must_use]
    pub fn answers_text(mut self, status: u16) -> Self {
        let content = Content { media: "text/plain", schema: String::json_schema };
        self.answers.insert(status, Some(content));
        self
    }

    /// Answers a picture.
    #[must_use]
    pub fn answers_picture(mut self, status: u16) -> Self {
        let content = Content { media: "image/png", schema: any };
        self.answers.insert(status, Some(content));
        self
    }

    /// Answers a file.
    #[must_use]
    pub fn answers_file(mut self, status: u16) -> Self {
        let content = Content { media: "application/octet-stream", schema: any };
        self.answers.insert(status, Some(content));
        self
    }

    /// Answers without a body.
    #[must_use]
    pub fn answers_nothing(mut self, status: u16) -> Self {
        self.answers.insert(status, None);
        self
    }

    /// The connection becomes a stream; docs/api.md says of what.
    #[must_use]
    pub fn streams(self) -> Self {
        self.answers_nothing(101).refuses(&["upgrade-required"])
    }

    /// The problems it may answer, by name.
    #[must_use]
    pub fn refuses(mut self, problems: &[&'static str]) -> Self {
        self.problems.extend(problems);
        self
    }
}

fn any(_: &mut SchemaGenerator) -> Schema {
    Schema::default()
}

/// The OpenAPI document of these operations.
///
/// # Panics
/// When an operation names a problem that nobody knows.
#[must_use]
pub fn document(title: &str, description: &str, operations: &[Operation]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
        settings.transforms.push(Box::new(RecursiveTransform(limit_integers)));
    });
    let mut types = settings.into_generator();
    let statuses = statuses();
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations {
        let methods = paths.entry(operation.path).or_insert_with(|| json!({}));
        let method = operation.method.as_str().to_ascii_lowercase();
        methods[method] = operation.to_json(&mut types, &statuses);
    }
    let named = operations.iter().flat_map(|operation| operation.problems.iter().copied());
    let named: BTreeSet<&str> = named.chain(["no-such-path", "no-such-method"]).collect();
    let mut schemas = types.take_definitions(true);
    schemas["Problem"]["properties"]["type"]["enum"] =
        named.into_iter().map(|name| format!("urn:ostler:{name}")).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": env!("CARGO_PKG_VERSION"),
            "description": description,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "key": {
                "type": "mutualTLS",
                "description": "TLS 1.3 with a self-signed certificate on both sides; the trust document says what its key may do. None is asked for on the agent's socket file, nor by a host without trust.",
            } },
        },
    })
}

/// Every status of every problem.
fn statuses() -> BTreeMap<&'static str, Vec<u16>> {
    let refusals = examples().into_iter().map(|refusal| (refusal.name(), vec![refusal.status()]));
    refusals.chain(PROBLEMS.map(|(name, statuses)| (name, statuses.to_vec()))).collect()
}

/// Schemas say how wide an integer is; most readers know only a maximum.
fn limit_integers(schema: &mut Schema) {
    let maximum = match schema.get("format").and_then(Value::as_str) {
        Some("uint8") => u64::from(u8::MAX),
        Some("uint16") => u64::from(u16::MAX),
        Some("uint32") => u64::from(u32::MAX),
        Some("uint64") => u64::MAX,
        _ => return,
    };
    schema.insert("maximum".to_owned(), maximum.into());
}

impl Operation {
    fn to_json(
        &self,
        types: &mut SchemaGenerator,
        statuses: &BTreeMap<&'static str, Vec<u16>>,
    ) -> Value {
        let mut operation = json!({
            "operationId": self.id(),
            "summary": self.summary,
            "responses": self.responses(types, statuses),
            "security": [],
        });
        if let Some(right) = self.right {
            let right = format!("{right:?}").to_ascii_lowercase();
            operation["security"] = json!([{ "key": [] }, {}]);
            operation["x-ostler-right"] = right.into();
        }
        let parameters: Vec<Value> =
            self.parameters.iter().flat_map(|parameter| parameter.to_json(types)).collect();
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if let Some(body) = self.body {
            operation["requestBody"] = json!({ "required": true, "content": body.to_json(types) });
        }
        operation
    }

    /// `put-jobs-id` for `PUT /v1/jobs/{id}`.
    fn id(&self) -> String {
        let parts = self.path.split('/').filter(|part| !part.is_empty() && *part != "v1");
        let parts = parts.map(|part| part.trim_matches(['{', '}']));
        let method = self.method.as_str().to_ascii_lowercase();
        std::iter::once(method.as_str()).chain(parts).collect::<Vec<_>>().join("-")
    }

    fn responses(
        &self,
        types: &mut SchemaGenerator,
        statuses: &BTreeMap<&'static str, Vec<u16>>,
    ) -> Value {
        let mut responses = Map::new();
        for (status, content) in &self.answers {
            let words = http::StatusCode::from_u16(*status).ok().and_then(|s| s.canonical_reason());
            let mut response = json!({ "description": words.unwrap_or("as docs/api.md says") });
            if let Some(content) = content {
                response["content"] = content.to_json(types);
            }
            responses.insert(status.to_string(), response);
        }
        let problem = types.subschema_for::<Problem>();
        for (status, names) in self.problems_by_status(statuses) {
            let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            let response = json!({
                "description": names.join(", "),
                "content": { PROBLEM_JSON: { "schema": problem } },
            });
            responses.insert(status.to_string(), response);
        }
        responses.into()
    }

    fn problems_by_status(
        &self,
        statuses: &BTreeMap<&'static str, Vec<u16>>,
    ) -> BTreeMap<u16, Vec<&'static str>> {
        let mut problems: BTreeMap<u16, Vec<&'static str>> = BTreeMap::new();
        for name in &self.problems {
            let known = statuses.get(name).unwrap_or_else(|| panic!("no problem is called {name}"));
            for status in known {
                problems.entry(*status).or_default().push(name);
            }
        }
        problems
    }
}

impl Parameter {
    fn to_json(&self, types: &mut SchemaGenerator) -> Vec<Value> {
        let required = |name: &str, place: &str, mut schema: Schema| {
            limit_integers(&mut schema);
            vec![json!({ "name": name, "in": place, "required": true, "schema": schema })]
        };
        match self {
            Parameter::Path(name, schema) => required(name, "path", schema(types)),
            Parameter::Header(name, schema) => required(name, "header", schema(types)),
            Parameter::Query(fields) => {
                let mut fields = fields(types);
                RecursiveTransform(limit_integers).transform(&mut fields);
                let properties = fields.get("properties").and_then(Value::as_object);
                let each = properties.into_iter().flatten();
                each.map(|(name, schema)| json!({ "name": name, "in": "query", "schema": schema }))
                    .collect()
            }
        }
    }
}

impl Content {
    fn to_json(self, types: &mut SchemaGenerator) -> Value {
        json!({ self.media: { "schema": (self.schema)(types) } })
    }
}
