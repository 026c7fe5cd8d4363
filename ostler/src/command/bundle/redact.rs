//! What is left out of a bundle.
//!
//! Decides what could be a secret: what guests are told at their first start, and what follows the name
//! of a server in an address, since a discovery URL is a password and an image's may hold one. What was
//! there is told by its size.

use serde_json::Value;

/// Fields that are left out whole, wherever they are.
const SECRET: [&str; 3] = ["user_data", "meta_data", "network_config"];

/// The same JSON without what could be secret.
pub(super) fn redacted(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(address(&text)),
        Value::Array(items) => items.into_iter().map(redacted).collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| {
                let value = match SECRET.contains(&name.as_str()) {
                    true => left_out(&value),
                    false => redacted(value),
                };
                (name, value)
            });
            Value::Object(fields.collect())
        }
        plain => plain,
    }
}

fn left_out(value: &Value) -> Value {
    let bytes = match value {
        Value::Null => return Value::Null,
        Value::String(text) => text.len(),
        other => other.to_string().len(),
    };
    Value::String(format!("({bytes} bytes, left out)"))
}

/// A text whose addresses tell no more than a server each: errors and warnings quote them, too.
pub(super) fn address(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((at, scheme)) = first_scheme(rest) {
        let begin = at + scheme.len();
        let is_over = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ')' | '>');
        let end = rest[begin..].find(is_over).map_or(rest.len(), |length| begin + length);
        kept.push_str(&rest[..begin]);
        kept.push_str(&server(&rest[begin..end]));
        rest = &rest[end..];
    }
    kept + rest
}

fn first_scheme(text: &str) -> Option<(usize, &'static str)> {
    let found = ["https://", "http://"].into_iter();
    found.filter_map(|scheme| Some((text.find(scheme)?, scheme))).min()
}

/// What follows the scheme of an address, without who asks there and for what.
fn server(address: &str) -> String {
    let end = address.find(['/', '?', '#']).unwrap_or(address.len());
    let (authority, path) = address.split_at(end);
    let server = authority.rsplit_once('@').map_or(authority, |(_, server)| server);
    let is_all = path.trim_start_matches('/').is_empty();
    format!("{server}{}", if is_all { "" } else { "/(left out)" })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_guests_are_told_and_what_opens_doors_is_left_out() {
        let job = json!({
            "id": "web-1",
            "spec": { "vm": { "vcpus": 2, "cloud_init": {
                "user_data": "password: s3cret", "meta_data": null, "network_config": "pass" } } },
            "jobs": [{ "discovery": ["https://find.example:7459/0123token", "file:///etc/hosts"] }],
            "url": "https://me:s3cret@images.example/a.qcow2?signature=s3cret",
            "agent": "https://10.0.0.1:7460",
        });
        let kept = redacted(job);
        let text = kept.to_string();
        assert!(!text.contains("s3cret") && !text.contains("token"), "{text}");
        assert_eq!(kept["spec"]["vm"]["cloud_init"]["user_data"], "(16 bytes, left out)");
        assert_eq!(kept["spec"]["vm"]["cloud_init"]["meta_data"], Value::Null);
        assert_eq!(kept["spec"]["vm"]["vcpus"], 2);
        assert_eq!(kept["jobs"][0]["discovery"][0], "https://find.example:7459/(left out)");
        assert_eq!(kept["url"], "https://images.example/(left out)");
        assert_eq!(kept["agent"], "https://10.0.0.1:7460");
    }

    #[test]
    fn addresses_in_sentences_are_cut_as_well() {
        let said = "http://find.example:7459/clusters/0123 does not answer: POST \
                    https://me:s3cret@b.example/x?y=s3cret: not sent";
        assert_eq!(
            address(said),
            "http://find.example:7459/(left out) does not answer: POST https://b.example/(left out) \
             not sent"
        );
        assert_eq!(address("file:///etc/hosts"), "file:///etc/hosts");
    }
}
