//! The daemon as its clients reach it: over HTTP, with the token of the environment.
//!
//! It fails with a [`Fault`] whose exit says which kind of answer it was: unreachable, not found, conflict, a wait that ran out, or
//! what was sent was wrong. Redirects are not followed and proxies not used: the token goes to the named daemon and nowhere else.

use std::error::Error as _;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde_json::Value;

use super::exit::{Exit, Fault};
use super::human;
use crate::config::{self, Environment, Secret};

/// How long the daemon may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the daemon may take for one answer; streams have no limit.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a push may take.
const PUSH: Duration = Duration::from_secs(600);
/// The longest text of an error that is shown, in characters.
const LONGEST_DETAIL: usize = 4_000;

/// What every client verb takes.
#[derive(Args, Clone, Debug, Default)]
pub struct ClientArgs {
    /// The daemon's address with its API prefix [env: SANDCLOCK_URL] [default: http://127.0.0.1:8000]
    #[arg(long, global = true, value_name = "URL", value_parser = http_url, help_heading = "Daemon")]
    pub server: Option<String>,
    /// The file whose first line is the token [env: SANDCLOCK_TOKEN, SANDCLOCK_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Daemon")]
    pub token_file: Option<PathBuf>,
    /// Print the daemon's JSON
    #[arg(long, global = true, help_heading = "Daemon")]
    pub json: bool,
}

fn http_url(text: &str) -> Result<String, String> {
    let is_http = text.starts_with("http://") || text.starts_with("https://");
    match Url::parse(text) {
        Ok(_) if is_http => Ok(text.to_owned()),
        _ => Err("write it as in `http://127.0.0.1:8000`".to_owned()),
    }
}

/// An answer of the daemon's.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The JSON as it came.
    pub raw: String,
    /// The same, read.
    pub value: Value,
}

/// The connection to one daemon.
#[derive(Clone, Debug)]
pub struct Remote {
    http: Client,
    base: Url,
    token: Option<Secret>,
}

impl Remote {
    /// Finds out where the daemon is; connects to nothing yet.
    ///
    /// # Errors
    /// The address or the token of the environment cannot be used.
    pub fn open(args: &ClientArgs, env: &Environment) -> Result<Self, Fault> {
        let mut env = env.clone();
        if let Some(server) = &args.server {
            env = env.with("SANDCLOCK_URL", server);
        }
        if let Some(file) = &args.token_file {
            env = env.with("SANDCLOCK_TOKEN", "").with("SANDCLOCK_TOKEN_FILE", &file.to_string_lossy());
        }
        let client = config::client(&env).map_err(|faults| Fault::usage(faults.to_string()))?;
        let unusable = |why: &str| Fault::usage(format!("the daemon's address `{}` {why}", human::one_line(&client.url)));
        let base = Url::parse(&client.url).map_err(|_| unusable("is not an address; write it as in `http://127.0.0.1:8000`"))?;
        crate::tls::provide();
        let http = Client::builder()
            .connect_timeout(CONNECT)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("sandclock/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Fault::failed(format!("the HTTP client cannot be made ({error}); start it again")))?;
        Ok(Remote { http, base, token: client.token })
    }

    /// The address of what stands below `/background`; each segment and value is escaped as needed.
    ///
    /// # Errors
    /// A segment means another place than its name says.
    pub fn url(&self, segments: &[&str], query: &[(&str, String)]) -> Result<Url, Fault> {
        let mut url = self.base.clone();
        // The address would silently lose such a segment.
        if let Some(segment) = segments.iter().find(|segment| matches!(**segment, "" | "." | "..")) {
            return Err(Fault::usage(format!("`{segment}` cannot be a part of a path; name the file as its listing does")));
        }
        url.path_segments_mut()
            .map_err(|()| Fault::usage("the daemon's address takes no path; write it as in `http://127.0.0.1:8000`"))?
            .pop_if_empty()
            .push("background")
            .extend(segments);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    /// Reads what stands at a path.
    ///
    /// # Errors
    /// The daemon is unreachable or says no.
    pub async fn get(&self, segments: &[&str], query: &[(&str, String)]) -> Result<Answer, Fault> {
        let request = self.request(Method::GET, self.url(segments, query)?);
        self.answer(request).await
    }

    /// Sends a body to a path.
    ///
    /// # Errors
    /// The daemon is unreachable or says no.
    pub async fn post(&self, segments: &[&str], body: Option<&Value>) -> Result<Answer, Fault> {
        let request = self.request(Method::POST, self.url(segments, &[])?);
        self.answer(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }

    /// Sends a body to a path, once under this key: the daemon answers a second time as it did the first.
    ///
    /// # Errors
    /// The daemon is unreachable or says no.
    pub async fn post_once(&self, segments: &[&str], body: &Value, key: Option<&str>) -> Result<Answer, Fault> {
        let mut request = self.request(Method::POST, self.url(segments, &[])?).json(body);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        self.answer(request).await
    }

    /// Puts a component to a path. It has more time than other requests: it is sent, compiled and kept.
    ///
    /// # Errors
    /// The daemon is unreachable or says no.
    pub async fn put(&self, segments: &[&str], query: &[(&str, String)], bytes: Vec<u8>) -> Result<Answer, Fault> {
        let request = self.request(Method::PUT, self.url(segments, query)?).header(CONTENT_TYPE, "application/wasm").body(bytes);
        self.answer_within(request, PUSH).await
    }

    /// Deletes what stands at a path.
    ///
    /// # Errors
    /// The daemon is unreachable or says no.
    pub async fn delete(&self, segments: &[&str], query: &[(&str, String)]) -> Result<Answer, Fault> {
        let request = self.request(Method::DELETE, self.url(segments, query)?);
        self.answer(request).await
    }

    /// Opens what stands at a path as a stream of bytes; `after` is the last event of it that is known.
    ///
    /// # Errors
    /// The daemon is unreachable or says no.
    pub async fn open_stream(&self, segments: &[&str], accept: &'static str, after: Option<u64>) -> Result<Response, Fault> {
        let mut request = self.request(Method::GET, self.url(segments, &[])?).header(ACCEPT, HeaderValue::from_static(accept));
        if let Some(after) = after {
            request = request.header("Last-Event-ID", after);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(refused(response).await) }
    }

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.http.request(method, url);
        let bearer = self.token.as_ref().and_then(|token| HeaderValue::from_str(&format!("Bearer {}", token.expose())).ok());
        match bearer {
            Some(mut bearer) => {
                bearer.set_sensitive(true);
                request.header(AUTHORIZATION, bearer)
            }
            None => request,
        }
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Answer, Fault> {
        self.answer_within(request, ANSWER).await
    }

    async fn answer_within(&self, request: RequestBuilder, limit: Duration) -> Result<Answer, Fault> {
        let response = request.timeout(limit).send().await.map_err(|error| self.unreachable(&error))?;
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        self.json(&bytes)
    }

    fn json(&self, bytes: &Bytes) -> Result<Answer, Fault> {
        let strange =
            || Fault::failed(format!("{} answers with something that is not JSON; is it a sandclock daemon's address?", self.shown()));
        let value = serde_json::from_slice(bytes).map_err(|_| strange())?;
        Ok(Answer { raw: String::from_utf8(bytes.to_vec()).map_err(|_| strange())?, value })
    }

    /// The daemon's address, without anything that could be a secret.
    fn shown(&self) -> String {
        let mut url = self.base.clone();
        // Both fail only for addresses that cannot have what is taken away.
        let _ = url.set_password(None);
        let _ = url.set_username("");
        url.as_str().trim_end_matches('/').to_owned()
    }

    /// The fault of a daemon that does not answer, or stops in the middle of it.
    pub fn unreachable(&self, error: &reqwest::Error) -> Fault {
        let mut cause = error.source();
        let mut last = String::new();
        while let Some(inner) = cause {
            last = inner.to_string();
            cause = inner.source();
        }
        let why = match (error.is_timeout(), last.is_empty()) {
            (true, _) => "it took too long".to_owned(),
            (false, true) => "the connection broke".to_owned(),
            (false, false) => human::one_line(&last),
        };
        let mend = match last.contains("certificate") {
            true => {
                "name the file of the CA that signed its certificate by SSL_CERT_FILE, and the host that the certificate is made out to"
            }
            false => "start it with `sandclock serve`, or name another with --server",
        };
        Fault::new(Exit::Unreachable, format!("no daemon answers at {} ({why}); {mend}", self.shown()))
    }
}

/// The fault that an answer of 300 and above tells of.
async fn refused(response: Response) -> Fault {
    let status = response.status();
    // An error's text is short; a longer one is not the daemon's.
    let body: Value = match response.bytes().await {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
        Err(_) => Value::Null,
    };
    let detail = body.get("detail").and_then(Value::as_str).map(|detail| human::cut(&human::one_line(detail), LONGEST_DETAIL));
    let detail = detail.unwrap_or_else(|| format!("the daemon answers with status {status} and no sentence; look into its log"));
    let exit = exit_of(status);
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Fault::new(exit, format!("{detail} (the client takes the token from SANDCLOCK_TOKEN or SANDCLOCK_TOKEN_FILE)"))
        }
        StatusCode::NOT_FOUND => Fault::new(exit, format!("{detail}{}", where_to_look(&detail))),
        _ => Fault::new(exit, detail),
    }
}

/// What lists those that there are, where the daemon has no such one.
fn where_to_look(detail: &str) -> &'static str {
    match detail.split_once(" not found") {
        Some(("Agent", _)) => " (`sandclock agents list` has those that there are; the file's name in the plugins folder is the agent's)",
        Some(("Task", _)) => " (`sandclock tasks list` has those that there are)",
        Some(("Run", _)) => " (`sandclock runs list` has those that there are)",
        _ => "",
    }
}

fn exit_of(status: StatusCode) -> Exit {
    match status.as_u16() {
        404 | 410 => Exit::NotFound,
        409 => Exit::Conflict,
        504 => Exit::WaitRanOut,
        400 | 405 | 413 | 415 | 416 | 422 => Exit::Usage,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(url: &str) -> Result<Remote, Fault> {
        Remote::open(&ClientArgs { server: Some(url.to_owned()), ..ClientArgs::default() }, &Environment::default())
    }

    #[test]
    fn what_is_not_there_is_told_with_what_lists_those_that_are() {
        for (detail, list) in
            [("Agent not found: a", "agents list"), ("Task not found: t", "tasks list"), ("Run not found: r", "runs list")]
        {
            assert!(where_to_look(detail).contains(list), "{detail}");
        }
        assert_eq!(where_to_look("Checkpoint not found: c"), "");
    }

    #[test]
    fn paths_keep_the_prefix_and_escape_what_names_hold() {
        let remote = remote("http://u:p@h:1/api/").unwrap();
        let url = remote.url(&["runs", "r", "workspace", "files", "a b/%?.md"], &[("limit", "5".to_owned()), ("cursor", "a&b".to_owned())]);
        assert_eq!(url.unwrap().as_str(), "http://u:p@h:1/api/background/runs/r/workspace/files/a%20b%2F%25%3F.md?limit=5&cursor=a%26b");
        assert_eq!(remote.shown(), "http://h:1/api");
        for segment in ["..", ".", ""] {
            assert_eq!(remote.url(&["files", segment], &[]).unwrap_err().exit(), Exit::Usage, "{segment}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_used_is_a_sentence() {
        assert!(remote("https://h").is_ok());
        for bad in ["h:8000", "ftp://h", "http://", ""] {
            assert!(http_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_kind_of_answer_has_its_exit() {
        for (status, exit) in [
            (404, Exit::NotFound),
            (409, Exit::Conflict),
            (422, Exit::Usage),
            (400, Exit::Usage),
            (504, Exit::WaitRanOut),
            (401, Exit::Failed),
            (500, Exit::Failed),
            (503, Exit::Failed),
            (302, Exit::Failed),
        ] {
            assert_eq!(exit_of(StatusCode::from_u16(status).unwrap()), exit, "{status}");
        }
    }
}
