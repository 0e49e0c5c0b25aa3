//! A run's workspace: its entries page by page, and one file of it.
//!
//! Invariant: a file's bytes are a guest's, so they leave as a download that no browser renders, runs or guesses at.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LAST_MODIFIED};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};

use super::error::Problem;
use super::params::{NoParams, Params, PathId, PathRest};
use super::{Answer, Api, pages};
use crate::daemon::FileContent;
use crate::domain::id::RunId;

/// How much of a file is read at once, in bytes.
const CHUNK_BYTES: usize = 256 * 1024;

/// `GET /background/runs/{id}/workspace?limit=&cursor=`. A file's `path` is below the workspace root, as it always was;
/// `relative_path` is what a download names.
pub(super) async fn list(State(api): State<Api>, PathId(id): PathId<RunId>, mut params: Params) -> Answer {
    let limit = pages::limit(&mut params);
    let cursor = params.text("cursor");
    params.finish()?;
    let listing = api.manager.workspace(&id, cursor, limit).await?;
    let workspace_path = &listing.run.workspace_path;
    let files: Vec<Value> = listing
        .entries
        .iter()
        .map(|entry| {
            json!({
                "path": format!("{}/{}", workspace_path, entry.path),
                "name": entry.name,
                "modified_at": entry.modified_at.with_numeric_offset(),
                "is_dir": entry.is_dir,
                "kind": entry.kind,
                "size": entry.size,
                "relative_path": entry.path,
            })
        })
        .collect();
    Ok(Json(json!({
        "run_id": listing.run.run_id,
        "task_id": listing.run.task_id,
        "agent_id": listing.run.agent_id,
        "workspace_path": workspace_path,
        "files": files,
        "workspace_root": listing.workspace_root,
        "next_cursor": listing.next,
        "note": listing.note,
    })))
}

/// `GET /background/runs/{id}/workspace/files/{path}`.
pub(super) async fn download(
    State(api): State<Api>,
    PathId(id): PathId<RunId>,
    PathRest(path): PathRest,
    _: NoParams,
) -> Result<Response, Problem> {
    let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    if !path.split('/').all(is_plain) {
        return Err(Problem::unprocessable(
            "The path must lead to a file inside the run's workspace: names between single slashes, none of them `.` or `..`.",
        ));
    }
    let opened = api.manager.workspace_file(&id, &path).await?;
    let name = path.rsplit('/').next().unwrap_or_default();
    let body = match opened.content {
        FileContent::Here(file) => body_of(file, opened.size),
        // A piece that cannot be had or is not what was uploaded breaks the connection, so that no part is taken for the whole.
        FileContent::Bucket(content) => Body::from_stream(content),
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(opened.size));
    headers.insert(CONTENT_DISPOSITION, disposition(name));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin"));
    let modified = opened.modified_at.to_datetime().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    if let Ok(modified) = HeaderValue::try_from(modified) {
        headers.insert(LAST_MODIFIED, modified);
    }
    Ok(response)
}

/// The first `size` bytes of a file, read as fast as they are taken. A file that became shorter ends in an error, so that the
/// connection breaks rather than the caller taking a part for the whole.
fn body_of(file: File, size: u64) -> Body {
    let file = Arc::new(file);
    Body::from_stream(stream::try_unfold(0, move |at| {
        let file = Arc::clone(&file);
        async move {
            let left = size - at;
            if left == 0 {
                return Ok(None);
            }
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            let chunk = tokio::task::spawn_blocking(move || read_at(&file, at, wanted)).await.map_err(io::Error::other)??;
            let next = at + chunk.len() as u64;
            Ok::<_, io::Error>(Some((chunk, next)))
        }
    }))
}

fn read_at(file: &File, at: u64, wanted: usize) -> io::Result<Bytes> {
    let mut chunk = vec![0; wanted];
    file.read_exact_at(&mut chunk, at)?;
    Ok(Bytes::from(chunk))
}

/// A header under which a browser saves the file, whatever its name: the plain form has only harmless characters, the extended one
/// all of them, escaped.
fn disposition(name: &str) -> HeaderValue {
    let is_harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let plain: String = name.chars().map(|c| if is_harmless(c) { c } else { '_' }).collect();
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        if is_harmless(char::from(byte)) { escaped.push(char::from(byte)) } else { escaped.push_str(&format!("%{byte:02X}")) }
    }
    HeaderValue::try_from(format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{escaped}"))
        .unwrap_or(HeaderValue::from_static("attachment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_of_a_file_leaves_its_header() {
        assert_eq!(disposition("output.md"), "attachment; filename=\"output.md\"; filename*=UTF-8''output.md");
        let hostile = disposition("a\"; filename=x.html\r\nSet-Cookie: é");
        let text = hostile.to_str().unwrap();
        assert_eq!(text.matches('"').count(), 2);
        assert!(!text.contains(['\r', '\n']) && text.ends_with("%0D%0ASet-Cookie%3A%20%C3%A9"), "{text}");
    }

    #[tokio::test]
    async fn a_file_is_sent_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let content: Vec<u8> = (0..CHUNK_BYTES * 2 + 17).map(|at| u8::try_from(at % 251).unwrap()).collect();
        std::fs::write(&path, &content).unwrap();
        let open = || File::open(&path).unwrap();
        let all = axum::body::to_bytes(body_of(open(), content.len() as u64), usize::MAX).await.unwrap();
        assert_eq!(all, content);
        assert!(axum::body::to_bytes(body_of(open(), 0), usize::MAX).await.unwrap().is_empty());
        assert!(axum::body::to_bytes(body_of(open(), content.len() as u64 + 1), usize::MAX).await.is_err());
        assert_eq!(axum::body::to_bytes(body_of(open(), 5), usize::MAX).await.unwrap(), &content[..5]);
    }
}
