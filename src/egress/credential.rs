//! The values of credentials: read where the configuration says, and again when they change.
//!
//! Invariant: a value leaves this file only as a header that is marked sensitive, and is known to the redactor before that. It fails with
//! the credential's name and the mend, never with a value, and says nothing of what a command printed.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hyper::header::HeaderValue;
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;

use super::redact::Redactor;
use crate::domain::http::{Credential, Refusal, Rule, Source};
use crate::domain::secret::Secret;

/// The longest value, in bytes.
const LONGEST: u64 = 16 * 1024;
/// The shortest: what is shorter could not be kept out of texts.
const SHORTEST: usize = 8;
/// How long a command may take.
const COMMAND_TIME: Duration = Duration::from_secs(10);

/// How long a command that failed is left alone.
const FAILED_TIME: Duration = Duration::from_secs(5);
/// How old what a command printed must be to be forgotten: a host that refuses everybody must not have it run for each call.
const YOUNG: Duration = Duration::from_secs(10);

/// What says whether a file is still the same.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

/// A value that was read.
#[derive(Clone)]
enum Kept {
    File {
        stamp: Stamp,
        value: Secret,
    },
    Command {
        read: Instant,
        until: Instant,
        value: Secret,
    },
    /// A command that failed is not asked again at once, whoever wants its value.
    Failed {
        until: Instant,
        why: String,
    },
}

#[derive(Default)]
struct Cell {
    kept: Mutex<Option<Kept>>,
    /// One reads, the others wait for what it finds.
    reading: tokio::sync::Mutex<()>,
}

/// The values that a daemon has read.
pub struct Values {
    redactor: Arc<Redactor>,
    cells: Mutex<HashMap<String, Arc<Cell>>>,
}

impl Values {
    /// None read yet.
    pub fn new(redactor: Arc<Redactor>) -> Self {
        Values { redactor, cells: Mutex::default() }
    }

    /// The header's value.
    ///
    /// # Errors
    /// There is none; the sentence names the credential and the mend.
    pub async fn header(&self, credential: &Credential) -> Result<HeaderValue, Refusal> {
        let say = |why: String| Refusal {
            rule: Rule::Credential,
            sentence: format!("the credential `{}` cannot be used: {why}", credential.name),
            toml: None,
        };
        let value = self.value(&credential.source).await.map_err(say)?;
        self.redactor.learn(&credential.name, &value);
        if let Some(password) = password_of(&credential.prefix, &value) {
            self.redactor.learn(&credential.name, &password);
        }
        let text = format!("{}{}", credential.prefix, value.expose());
        let mut header = HeaderValue::from_str(&text)
            .map_err(|_| say("its value has signs that no header can carry; store it as one line of plain text".to_owned()))?;
        header.set_sensitive(true);
        Ok(header)
    }

    /// Forgets what a command printed, where it is what the host did not take and no news.
    pub fn refuse(&self, credential: &Credential, sent: &HeaderValue) {
        if !matches!(credential.source, Source::Command { .. }) {
            return;
        }
        let cell = self.cell(&credential.source);
        let mut kept = cell.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Kept::Command { read, value, .. }) = &*kept
            && read.elapsed() >= YOUNG
            && format!("{}{}", credential.prefix, value.expose()).as_bytes() == sent.as_bytes()
        {
            *kept = None;
        }
    }

    fn cell(&self, source: &Source) -> Arc<Cell> {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let key = match source {
            Source::Variable { name, .. } => format!("variable {name}"),
            Source::File(path) => format!("file {}", path.display()),
            Source::Command { argv, keep } => format!("command {keep} {argv:?}"),
        };
        Arc::clone(cells.entry(key).or_default())
    }

    async fn value(&self, source: &Source) -> Result<Secret, String> {
        match source {
            Source::Variable { name, value: None } => {
                Err(format!("the variable {name} is not set where the daemon runs; set it and start the daemon again"))
            }
            Source::Variable { name, value: Some(value) } => secret_of(value.expose(), &format!("the variable {name}")),
            Source::File(path) => self.of_file(source, path).await,
            Source::Command { argv, keep } => self.of_command(source, argv, keep.duration()).await,
        }
    }

    async fn of_file(&self, source: &Source, path: &Path) -> Result<Secret, String> {
        let shown = crate::domain::text::printable(&path.to_string_lossy(), 200);
        let unreadable = |error: std::io::Error| format!("the file `{shown}` cannot be read ({error}); make it readable for the daemon");
        let no_file = || format!("`{shown}` is no file; name the file that holds the value");
        let about = tokio::fs::metadata(path).await.map_err(unreadable)?;
        if !about.is_file() {
            return Err(no_file());
        }
        let stamp = stamp_of(&about);
        let cell = self.cell(source);
        if let Some(Kept::File { stamp: of, value }) = &*cell.kept.lock().unwrap_or_else(PoisonError::into_inner)
            && *of == stamp
        {
            return Ok(value.clone());
        }
        // What became a pipe meanwhile must not be waited for.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = tokio::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).await.map_err(unreadable)?;
        if !file.metadata().await.map_err(unreadable)?.is_file() {
            return Err(no_file());
        }
        let mut bytes = Vec::new();
        file.take(LONGEST + 1).read_to_end(&mut bytes).await.map_err(unreadable)?;
        let value = secret_from(bytes, &format!("the file `{shown}`"))?;
        // One that was changed meanwhile has another stamp when it is looked at next.
        *cell.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(Kept::File { stamp, value: value.clone() });
        Ok(value)
    }

    async fn of_command(&self, source: &Source, argv: &[String], keep: Duration) -> Result<Secret, String> {
        let cell = self.cell(source);
        let kept = || match &*cell.kept.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Kept::Command { until, value, .. }) if Instant::now() < *until => Some(Ok(value.clone())),
            Some(Kept::Failed { until, why }) if Instant::now() < *until => Some(Err(why.clone())),
            _ => None,
        };
        if let Some(kept) = kept() {
            return kept;
        }
        let _reading = cell.reading.lock().await;
        if let Some(kept) = kept() {
            return kept;
        }
        let came = printed(argv).await;
        let now = Instant::now();
        let keeping = match came.clone() {
            Ok(value) => Kept::Command { read: now, until: now + keep, value },
            Err(why) => Kept::Failed { until: now + FAILED_TIME, why },
        };
        *cell.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(keeping);
        came
    }
}

/// What the encoded value of `Basic` has behind the name, where it is long enough to be kept out of texts.
fn password_of(prefix: &str, value: &Secret) -> Option<Secret> {
    if !prefix.trim().eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD_NO_PAD.decode(value.expose().trim_end_matches('=')).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (_, password) = text.split_once(':')?;
    (password.len() >= SHORTEST).then(|| Secret::new(password))
}

fn stamp_of(about: &std::fs::Metadata) -> Stamp {
    (about.dev(), about.ino(), about.size(), about.mtime(), about.mtime_nsec(), about.ctime(), about.ctime_nsec())
}

async fn printed(argv: &[String]) -> Result<Secret, String> {
    let Some((program, arguments)) = argv.split_first() else { return Err("its command is empty; name a program".to_owned()) };
    let shown = crate::domain::text::printable(program, 200);
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child =
        command.spawn().map_err(|error| format!("the command `{shown}` cannot be started ({error}); install it or name another"))?;
    let Some(out) = child.stdout.take() else { return Err(format!("the command `{shown}` has no output")) };
    let reading = async {
        let mut bytes = Vec::new();
        out.take(LONGEST + 1).read_to_end(&mut bytes).await?;
        // One that prints on is ended by the pipe that nobody reads, or with its time.
        if bytes.len() as u64 > LONGEST {
            return Ok::<_, std::io::Error>((bytes, true));
        }
        let status = child.wait().await?;
        Ok((bytes, status.success()))
    };
    match tokio::time::timeout(COMMAND_TIME, reading).await {
        Err(_) => Err(format!("the command `{shown}` took more than {COMMAND_TIME:?}; make it answer sooner")),
        Ok(Err(error)) => Err(format!("the command `{shown}` cannot be read ({error})")),
        Ok(Ok((_, false))) => Err(format!("the command `{shown}` failed; run it by hand as the daemon's user to see why")),
        Ok(Ok((bytes, true))) => secret_from(bytes, &format!("what the command `{shown}` prints")),
    }
}

fn secret_from(bytes: Vec<u8>, what: &str) -> Result<Secret, String> {
    if bytes.len() as u64 > LONGEST {
        return Err(format!("{what} is longer than {LONGEST} bytes; keep nothing but the value there"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => secret_of(&text, what),
        Err(_) => Err(format!("{what} is not UTF-8; store it as plain text")),
    }
}

fn secret_of(text: &str, what: &str) -> Result<Secret, String> {
    let text = text.trim_matches(['\r', '\n', ' ', '\t']);
    if text.len() < SHORTEST {
        let is = if text.is_empty() { "empty".to_owned() } else { format!("shorter than {SHORTEST} signs") };
        return Err(format!("{what} is {is}; put the whole value there"));
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Seconds;

    fn credential(source: Source) -> Credential {
        Credential {
            name: "test".to_owned(),
            host: "h".to_owned(),
            port: 443,
            registered_agents: false,
            allow_http_loopback: false,
            header: "authorization".to_owned(),
            prefix: "Bearer ".to_owned(),
            source,
            requests_per_minute: None,
            concurrent: None,
        }
    }

    fn command(script: &str, keep: u64) -> Credential {
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        credential(Source::Command { argv, keep: Seconds::whole(keep) })
    }

    fn values() -> Values {
        Values::new(Arc::default())
    }

    async fn said(credential: &Credential) -> String {
        let refusal = values().header(credential).await.unwrap_err();
        assert!(refusal.sentence.starts_with("the credential `test` cannot be used: "), "{}", refusal.sentence);
        refusal.sentence
    }

    #[tokio::test]
    async fn a_file_is_read_again_when_it_changes_however_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let (values, credential) = (values(), credential(Source::File(path.clone())));
        std::fs::write(&path, "first-value\n").unwrap();
        let first = values.header(&credential).await.unwrap();
        assert_eq!((first.to_str().unwrap(), first.is_sensitive()), ("Bearer first-value", true));
        std::fs::write(folder.path().join("new"), "other-value\n").unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(values.header(&credential).await.unwrap(), "Bearer other-value");
        std::fs::write(&path, "the-third-value").unwrap();
        assert_eq!(values.header(&credential).await.unwrap(), "Bearer the-third-value");
        std::fs::remove_file(&path).unwrap();
        assert!(values.header(&credential).await.unwrap_err().sentence.contains("make it readable"));
        let all = "first-value other-value the-third-value".to_owned();
        assert_eq!(values.redactor.text(all), "(hidden) (hidden) (hidden)", "all of them were made known");
    }

    #[tokio::test]
    async fn what_is_no_value_is_refused_with_the_mend_and_without_the_value() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let file = credential(Source::File(path.clone()));
        for (bytes, word) in [(&b""[..], "empty"), (b"\n\n", "empty"), (b"short", "shorter"), (b"\xff\xfe-long-enough", "UTF-8")] {
            std::fs::write(&path, bytes).unwrap();
            let said = said(&file).await;
            assert!(said.contains(word) && !said.contains("short-") && !said.contains("`short`"), "{said}");
        }
        std::fs::write(&path, vec![b'x'; 20_000]).unwrap();
        assert!(said(&file).await.contains("longer"));
        std::fs::write(&path, "line one\nline two").unwrap();
        assert!(said(&file).await.contains("no header"));
        assert!(said(&credential(Source::File(folder.path().to_owned()))).await.contains("no file"));
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(said(&credential(Source::File(pipe))).await.contains("no file"));
        let missing = credential(Source::Variable { name: "KEY".to_owned(), value: None });
        assert!(said(&missing).await.contains("KEY is not set"));
    }

    #[tokio::test]
    async fn a_command_that_fails_is_left_alone_for_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let counter = folder.path().join("runs");
        let (values, failing) = (values(), command(&format!("echo x >> {}; exit 1", counter.display()), 1000));
        for _ in 0..5 {
            assert!(values.header(&failing).await.is_err());
        }
        assert_eq!(std::fs::read_to_string(&counter).unwrap(), "x\n");
        tokio::time::pause();
        tokio::time::advance(FAILED_TIME).await;
        tokio::time::resume();
        assert!(values.header(&failing).await.is_err());
        assert_eq!(std::fs::read_to_string(&counter).unwrap(), "x\nx\n");
    }

    #[tokio::test]
    async fn the_password_of_basic_is_known_too() {
        let source = |text: &str| Source::Variable { name: "KEY".to_owned(), value: Some(Secret::new(text)) };
        let values = values();
        // somebody:open-sesame
        let basic = Credential { prefix: "Basic ".to_owned(), ..credential(source("c29tZWJvZHk6b3Blbi1zZXNhbWU=")) };
        values.header(&basic).await.unwrap();
        assert_eq!(values.redactor.text("somebody with open-sesame".to_owned()), "somebody with (hidden)");
    }

    #[tokio::test]
    async fn a_command_is_bounded_and_what_it_prints_is_kept_for_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let counter = folder.path().join("runs");
        let script = format!("echo x >> {}; echo value-$(wc -l < {})-long", counter.display(), counter.display());
        let (values, kept) = (values(), command(&script, 1000));
        let both = tokio::join!(values.header(&kept), values.header(&kept));
        assert_eq!(
            (both.0.unwrap(), both.1.unwrap()),
            (HeaderValue::from_static("Bearer value-1-long"), HeaderValue::from_static("Bearer value-1-long"))
        );
        let sent = HeaderValue::from_static("Bearer value-1-long");
        values.refuse(&kept, &sent);
        assert_eq!(values.header(&kept).await.unwrap(), sent, "it was printed right now");
        tokio::time::pause();
        tokio::time::advance(YOUNG).await;
        tokio::time::resume();
        values.refuse(&kept, &HeaderValue::from_static("Bearer value-0-long"));
        assert_eq!(values.header(&kept).await.unwrap(), sent, "another was refused");
        values.refuse(&kept, &sent);
        assert_eq!(values.header(&kept).await.unwrap(), "Bearer value-2-long");
        let at_once = command(&script, 0);
        assert_eq!(values.header(&at_once).await.unwrap(), "Bearer value-3-long");
        assert_eq!(values.header(&at_once).await.unwrap(), "Bearer value-4-long");
        assert!(said(&command("echo leaked-value >&2; echo leaked-value; exit 3", 1)).await.contains("failed"));
        assert!(said(&command("yes", 1)).await.contains("longer"));
        let none = credential(Source::Command { argv: vec!["/nowhere/program".to_owned()], keep: Seconds::whole(1) });
        assert!(said(&none).await.contains("cannot be started"));
    }
}
