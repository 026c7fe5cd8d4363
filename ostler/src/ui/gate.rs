//! Who may speak to the page's server: the browser that was given the printed address, from that very
//! page, and nobody else who can reach loopback.
//!
//! ```text
//!   GET /?token=T ──▶ 303 to /ROOM/ with a cookie for /ROOM/ alone
//!   /ROOM/…        ──▶ Host is ours ─▶ Origin is ours ─▶ cookie is ours ─▶ answered
//! ```
//!
//! Decides alone; what is asked is the handlers'. Why each check is there:
//!
//! - **Host**: a name of somebody else that leads to 127.0.0.1 (DNS rebinding) would make their page
//!   and ours one origin.
//! - **Origin**: another page in the same browser can send requests here, with our cookie if it is on
//!   another port of this machine, because cookies know no ports.
//! - **Room**: for the same reason our cookie would be sent to other servers on this machine; they
//!   don't know the path that it is for.

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Uri, header};
use sha2::{Digest as _, Sha256};
use transport::ProblemReply;
use uuid::Uuid;

use super::serve::Refused;

/// What may pass.
pub(crate) struct Gate {
    /// What a browser may have in its address line, such as `127.0.0.1:7461`.
    authorities: Vec<String>,
    /// In the printed address.
    token: String,
    /// In the cookie.
    pass: String,
    /// First part of every path.
    room: String,
    /// The cookie's name, with the port: two pages on one machine must not take each other's.
    cookie: String,
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It brings the token: lead it in.
    Enter,
    /// It may be answered.
    Pass,
    /// It may not.
    Refuse(Why),
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It was sent to another name than ours.
    Host,
    /// Another page sent it.
    Origin,
    /// It shows neither token nor cookie.
    Stranger,
}

impl Gate {
    /// A gate with these secrets, which nobody can guess, for a page on this port.
    pub(crate) fn new(authorities: Vec<String>, port: u16, secrets: [Uuid; 3]) -> Self {
        let [token, pass, room] = secrets.map(|secret| secret.simple().to_string());
        Self { authorities, token, pass, room, cookie: format!("ostler-ui-{port}") }
    }

    /// The address for the person.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/?token={}", self.authorities[0], self.token)
    }

    /// Where everything is, without a slash at its end.
    pub(crate) fn room(&self) -> String {
        format!("/{}", self.room)
    }

    /// The cookie that lets a browser into the room from now on.
    pub(crate) fn set_cookie(&self) -> HeaderValue {
        let Self { cookie, pass, room, .. } = self;
        let text = format!("{cookie}={pass}; Path=/{room}/; HttpOnly; SameSite=Strict");
        HeaderValue::from_str(&text).expect("hexadecimal digits are a valid header")
    }

    /// Judges a request by its head.
    pub(crate) fn judge(&self, request: &Parts) -> Verdict {
        let Some(host) = only(request, &header::HOST).filter(|host| self.is_ours(host)) else {
            return Verdict::Refuse(Why::Host);
        };
        let is_entrance = request.uri.path() == "/" && request.method == Method::GET;
        if is_entrance && is_same(token_of(&request.uri), &self.token) {
            return Verdict::Enter;
        }
        if !is_from_here(request, host) {
            return Verdict::Refuse(Why::Origin);
        }
        let is_inside = request.uri.path().starts_with(&format!("/{}/", self.room));
        let pass = cookies(request).find(|(name, _)| *name == self.cookie);
        let is_known = pass.is_some_and(|(_, pass)| is_same(pass, &self.pass));
        if is_inside && is_known { Verdict::Pass } else { Verdict::Refuse(Why::Stranger) }
    }

    fn is_ours(&self, host: &str) -> bool {
        self.authorities.iter().any(|ours| ours == host)
    }
}

/// Whether a request comes from the page itself, or from the person's own hand.
fn is_from_here(request: &Parts, host: &str) -> bool {
    let is_origin_ours = |origin: &str| origin.strip_prefix("http://") == Some(host);
    let is_reading =
        request.method == Method::GET && !request.headers.contains_key(header::UPGRADE);
    let origin = match request.headers.contains_key(header::ORIGIN) {
        true => only(request, &header::ORIGIN).is_some_and(is_origin_ours),
        // Browsers leave it away only where nothing is changed and no stream is opened.
        false => is_reading,
    };
    let site = match request.headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes) {
        None => true,
        Some(site) => site == b"same-origin" || (site == b"none" && is_reading),
    };
    origin && site
}

/// Said by every browser of today, and by no page's own choice.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A header that is there once.
fn only<'a>(request: &'a Parts, name: &HeaderName) -> Option<&'a str> {
    let mut all = request.headers.get_all(name).iter();
    let first = all.next().and_then(|value| value.to_str().ok());
    first.filter(|_| all.next().is_none())
}

fn token_of(uri: &Uri) -> &str {
    let query = uri.query().unwrap_or_default();
    query.split('&').find_map(|part| part.strip_prefix("token=")).unwrap_or_default()
}

fn cookies(request: &Parts) -> impl Iterator<Item = (&str, &str)> {
    let headers = request.headers.get_all(header::COOKIE).iter();
    let texts = headers.filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='))
}

/// Compares digests: how long that takes says nothing of the secret.
fn is_same(given: &str, secret: &str) -> bool {
    Sha256::digest(given) == Sha256::digest(secret)
}

impl Why {
    /// What the one who asked is told.
    pub(crate) fn refused(self) -> Refused {
        match self {
            Why::Host => Refused(ProblemReply::new(
                403,
                "other-host",
                "this page is at the address that `ostler ui` printed, under no other name",
            )),
            Why::Origin => Refused(ProblemReply::new(
                403,
                "other-origin",
                "another page may not ask this; write the address that `ostler ui` printed into the \
                 browser's address line",
            )),
            Why::Stranger => Refused(ProblemReply::new(
                403,
                "no-pass",
                "open the address that `ostler ui` printed when it started, with its token",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn gate() -> Gate {
        let authorities = vec!["127.0.0.1:7461".into(), "localhost:7461".into()];
        Gate::new(authorities, 7461, [1, 2, 3].map(Uuid::from_u128))
    }

    fn judge(gate: &Gate, method: &str, path: &str, headers: &[(&str, &str)]) -> Verdict {
        let request = Request::builder().method(method).uri(path);
        let request =
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        gate.judge(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn the_token_leads_in_and_the_cookie_stays_in() {
        let gate = gate();
        let host = ("host", "127.0.0.1:7461");
        let entrance = gate.url().replace("http://127.0.0.1:7461", "");
        assert_eq!(judge(&gate, "GET", &entrance, &[host]), Verdict::Enter);
        // A link in a mail is as good as a typed address: it has the token.
        let mail = [host, ("sec-fetch-site", "cross-site")];
        assert_eq!(judge(&gate, "GET", &entrance, &mail), Verdict::Enter);
        for wrong in ["/", "/?token=", "/?token=a", "/?tokens=b"] {
            assert_eq!(
                judge(&gate, "GET", wrong, &[host]),
                Verdict::Refuse(Why::Stranger),
                "{wrong}"
            );
        }
        let cookie = gate.set_cookie();
        let cookie = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
        let page = format!("{}/", gate.room());
        let known = [host, ("cookie", &*format!("a=b; {cookie}"))];
        assert_eq!(judge(&gate, "GET", &page, &known), Verdict::Pass);
        assert_eq!(judge(&gate, "GET", &page, &[host]), Verdict::Refuse(Why::Stranger));
        assert_eq!(judge(&gate, "GET", "/feed", &known), Verdict::Refuse(Why::Stranger));
        let other = [host, ("cookie", "ostler-ui-7461=0")];
        assert_eq!(judge(&gate, "GET", &page, &other), Verdict::Refuse(Why::Stranger));
    }

    #[test]
    fn other_names_and_other_pages_are_refused_even_with_the_cookie() {
        let gate = gate();
        let cookie = gate.set_cookie();
        let cookie = ("cookie", cookie.to_str().unwrap().split(';').next().unwrap());
        let ask = format!("{}/ask", gate.room());
        let host = ("host", "127.0.0.1:7461");
        let origin = ("origin", "http://127.0.0.1:7461");
        assert_eq!(judge(&gate, "POST", &ask, &[host, origin, cookie]), Verdict::Pass);
        let local = [("host", "localhost:7461"), ("origin", "http://localhost:7461"), cookie];
        assert_eq!(judge(&gate, "POST", &ask, &local), Verdict::Pass);

        for host in ["evil.example:7461", "127.0.0.1", "127.0.0.1:80", "[::1]:7461"] {
            let rebound = [("host", host), origin, cookie];
            assert_eq!(judge(&gate, "POST", &ask, &rebound), Verdict::Refuse(Why::Host), "{host}");
        }
        let twice = [host, ("host", "evil.example"), origin, cookie];
        assert_eq!(judge(&gate, "POST", &ask, &twice), Verdict::Refuse(Why::Host));
        assert_eq!(judge(&gate, "POST", &ask, &[origin, cookie]), Verdict::Refuse(Why::Host));

        for origin in
            ["http://evil.example", "http://127.0.0.1:9999", "null", "http://localhost:7461"]
        {
            let other = [host, ("origin", origin), cookie];
            assert_eq!(
                judge(&gate, "POST", &ask, &other),
                Verdict::Refuse(Why::Origin),
                "{origin}"
            );
            assert_eq!(judge(&gate, "GET", &ask, &other), Verdict::Refuse(Why::Origin), "{origin}");
        }
        assert_eq!(judge(&gate, "POST", &ask, &[host, cookie]), Verdict::Refuse(Why::Origin));
        let stream = [host, cookie, ("upgrade", "websocket")];
        assert_eq!(judge(&gate, "GET", &ask, &stream), Verdict::Refuse(Why::Origin));
        let same_site = [host, cookie, ("sec-fetch-site", "same-site")];
        assert_eq!(judge(&gate, "GET", &ask, &same_site), Verdict::Refuse(Why::Origin));
    }
}
