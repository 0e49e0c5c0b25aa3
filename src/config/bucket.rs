//! The bucket through which workspaces go from one machine to another, and the credentials for it.
//!
//! Invariant: the secret key is in no text that is shown; it comes from a file or a variable, never from the TOML.

use std::path::Path;

use crate::domain::time::Seconds;

use super::document::Node;
use super::fault::shown;
use super::section::{Section, key, text_of};
use super::server::token_in;
use super::settings::BucketSettings;
use crate::domain::secret::Secret;

/// The variables of AWS that say who asks; they are passed on as they are.
pub(super) const CREDENTIALS: [&str; 11] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_METADATA_ENDPOINT",
];

/// Reads `[workspace]`; none where it names no bucket.
pub(super) fn read(mut section: Section<'_, '_>) -> Option<BucketSettings> {
    let show = |bucket: &Option<(String, String)>| match bucket {
        Some((name, prefix)) => format!("s3://{name}/{prefix}").trim_end_matches('/').into(),
        None => "".into(),
    };
    let bucket = section.or(key("bucket", "SANDCLOCK_WORKSPACE_BUCKET"), None, show, bucket_of);
    let text = |text: &String| text.as_str().into();
    let endpoint = section.or(key("endpoint", "SANDCLOCK_WORKSPACE_ENDPOINT"), String::new(), text, endpoint_of);
    let region = section.or(key("region", "SANDCLOCK_WORKSPACE_REGION"), "us-east-1".to_owned(), text, |node| match text_of(node)? {
        region if is_name(region) => Ok(region.to_owned()),
        other => Err(format!("must be a region such as `eu-central-1`, not `{}`", shown(other))),
    });
    let allow_http = section.flag(key("allow_http", "SANDCLOCK_WORKSPACE_ALLOW_HTTP"), false);
    if endpoint.starts_with("http://") && !allow_http {
        let message = "begins with `http://`, which sends workspaces readable: use `https://`, or set `workspace.allow_http`";
        let origin = section.origin_of("endpoint");
        section.reading.fault(origin, "workspace.endpoint", message);
    }
    let key_id = section.or(key("access_key_id", "SANDCLOCK_WORKSPACE_ACCESS_KEY_ID"), String::new(), text, |node| match text_of(node)? {
        id if id.len() <= 256 && id.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(id.to_owned()),
        _ => Err("must be at most 256 letters, digits and signs of ASCII".to_owned()),
    });
    let faults_before = section.reading.faults.len();
    let secret = secret(&mut section);
    let is_faulty = section.reading.faults.len() > faults_before;
    let patience = section.seconds(key("patience_seconds", "SANDCLOCK_WORKSPACE_PATIENCE_SECONDS"), Seconds::whole(300), 0.0..=86_400.0);
    if !is_faulty && key_id.is_empty() != secret.is_none() {
        let message = "and `workspace.secret_key_file` go together: give both, or neither and the variables of AWS";
        let origin = section.origin_of(if key_id.is_empty() { "secret_key_file" } else { "access_key_id" });
        section.reading.fault(origin, "workspace.access_key_id", message);
    }
    let variables = CREDENTIALS.iter().filter_map(|name| Some(((*name).to_owned(), Secret::new(section.reading.env.get(name)?))));
    let credentials = match secret {
        Some(secret) => vec![(CREDENTIALS[0].to_owned(), Secret::new(key_id)), (CREDENTIALS[1].to_owned(), secret)],
        None => variables.collect(),
    };
    section.finish();
    let (name, prefix) = bucket?;
    let endpoint = (!endpoint.is_empty()).then_some(endpoint);
    Some(BucketSettings { name, prefix, endpoint, region, allow_http, credentials, patience })
}

fn is_name(text: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !text.is_empty() && text.len() <= 255 && text.bytes().all(is_fit) && !text.starts_with('.')
}

/// The name of a bucket, and what its keys begin with.
fn bucket_of(node: &Node) -> Result<Option<(String, String)>, String> {
    let text = text_of(node)?;
    if text.is_empty() {
        return Ok(None);
    }
    let rest = text.strip_prefix("s3://").map(|rest| rest.trim_end_matches('/')).unwrap_or_default();
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let is_good = is_name(name) && prefix.len() <= 500 && (prefix.is_empty() || prefix.split('/').all(is_name));
    if is_good {
        return Ok(Some((name.to_owned(), prefix.to_owned())));
    }
    // What is between `//` and `@` may be a password.
    Err("must be `s3://NAME` or `s3://NAME/PREFIX`, of letters, digits, `-`, `_` and `.`; credentials do not belong into it".to_owned())
}

fn endpoint_of(node: &Node) -> Result<String, String> {
    let text = text_of(node)?;
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_fit = |rest: &str| {
        let host = rest.trim_end_matches('/');
        !host.is_empty() && host.len() <= 500 && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]/".contains(&byte))
    };
    if text.is_empty() || rest.is_some_and(is_fit) {
        return Ok(text.trim_end_matches('/').to_owned());
    }
    Err("must be a server such as `https://s3.example.org:9000`, without credentials or options".to_owned())
}

/// The secret key out of its file; none where no file is named.
fn secret(section: &mut Section<'_, '_>) -> Option<Secret> {
    let named = section.given(key("secret_key_file", "SANDCLOCK_WORKSPACE_SECRET_KEY_FILE"), |node| text_of(node).map(str::to_owned));
    let (path, origin) = named.unwrap_or((String::new(), super::fault::Origin::Default));
    section.tell("secret_key_file", path.as_str().into(), origin.clone());
    if path.is_empty() {
        return None;
    }
    match token_in(Path::new(&path)) {
        Ok(secret) => Some(secret),
        Err(message) => {
            section.reading.fault(origin, "workspace.secret_key_file", message.replace("the token", "the secret key"));
            None
        }
    }
}
