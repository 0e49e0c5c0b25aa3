//! The scripts, and calls of them.
//!
//! Invariant: a script is atomic, and looks at everything that can refuse it before it writes anything; the server refuses one that may
//! write as a whole when it is full, read-only or cannot save.

use std::sync::LazyLock;

use ::redis::{Cmd, ToRedisArgs};

/// A script with the name that the server gives it.
pub struct Script {
    /// What it is written as.
    pub code: String,
    sha: String,
}

impl Script {
    fn new(flags: &str, parts: &[&str]) -> Script {
        let code = format!("#!lua flags={flags}\n{}{}", include_str!("common.lua"), parts.concat());
        let sha = ::redis::Script::new(&code).get_hash().to_owned();
        Script { code, sha }
    }

    /// A call of it on the store of that key.
    pub fn call(&self, key: &str) -> Cmd {
        let mut call = ::redis::cmd("EVALSHA");
        call.arg(&self.sha).arg(1).arg(key);
        call
    }
}

/// All of them.
pub struct Scripts {
    /// Makes or looks at the store.
    pub open: Script,
    /// Reads what a batch needs to know.
    pub read: Script,
    /// Writes a batch.
    pub write: Script,
    /// The same, on a server that is full too: for batches that make room.
    pub write_anyway: Script,
    /// Finds what a wish may have.
    pub candidates: Script,
    /// Renews leases.
    pub renew: Script,
    /// Finds what is due.
    pub due: Script,
    /// Reads a page.
    pub page: Script,
    /// Reads records by name.
    pub get: Script,
    /// Reads records as they are.
    pub wholes: Script,
    /// Reads events of many runs.
    pub spans: Script,
    /// Writes records as they are.
    pub import: Script,
}

impl Scripts {
    /// Each of them.
    pub fn all(&self) -> [&Script; 12] {
        let Scripts { open, read, write, write_anyway, candidates, renew, due, page, get, wholes, spans, import } = self;
        [open, read, write, write_anyway, candidates, renew, due, page, get, wholes, spans, import]
    }
}

/// What the scripts that write have in common.
const INDEX: &str = include_str!("index.lua");

const READS: &str = "no-writes";
const WRITES: &str = "";
const WRITES_WHEN_FULL: &str = "allow-oom";

/// The scripts of this program.
pub static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
    open: Script::new(WRITES_WHEN_FULL, &[include_str!("open.lua")]),
    read: Script::new(READS, &[include_str!("read.lua")]),
    write: Script::new(WRITES, &[INDEX, include_str!("write.lua")]),
    write_anyway: Script::new(WRITES_WHEN_FULL, &[INDEX, include_str!("write.lua")]),
    // It only reads, but a server that cannot take what a claim writes is to refuse it.
    candidates: Script::new(WRITES, &[include_str!("candidates.lua")]),
    renew: Script::new(WRITES_WHEN_FULL, &[include_str!("renew.lua")]),
    due: Script::new(READS, &[include_str!("due.lua")]),
    page: Script::new(READS, &[include_str!("page.lua")]),
    get: Script::new(READS, &[include_str!("get.lua")]),
    wholes: Script::new(READS, &[include_str!("wholes.lua")]),
    spans: Script::new(READS, &[include_str!("spans.lua")]),
    import: Script::new(WRITES, &[INDEX, include_str!("import.lua")]),
});

/// Adds a list behind its length.
pub fn list<T: ToRedisArgs>(call: &mut Cmd, items: impl ExactSizeIterator<Item = T>) {
    call.arg(items.len());
    for item in items {
        call.arg(item);
    }
}
