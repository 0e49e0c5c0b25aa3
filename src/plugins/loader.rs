//! From a file to what an attempt starts from: read, hash, look in memory and in the cache, else compile, then prepare.
//!
//! Invariant: one preparation for each digest while anybody holds it, however many files have those bytes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::cache::Cache;
use super::compile::{Compiler, guarded};
use super::folder::{self, Stamp};
use super::prescan::{Caps, prescan};
use super::{Digest, Loaded, PluginError, PluginSettings, Preparer};

/// How many files are read and hashed at once: it bounds the memory that a full folder takes.
const READERS: usize = 2;
/// What is kept of a text that came out of a plugin's bytes, in characters.
const TEXT_CHARS: usize = 1000;

/// Why a file is not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// The sentence that says what, where and the mend.
    pub reason: String,
    /// Whether the same file may do at another time, because it was being written or could not be read.
    pub for_now: bool,
}

impl Refused {
    pub(super) fn for_now(reason: String) -> Self {
        Refused { reason, for_now: true }
    }

    pub(super) fn for_good(reason: String) -> Self {
        Refused { reason, for_now: false }
    }
}

/// A text on one line and of a bounded length, without characters that a terminal or a log would act on.
pub(super) fn one_line(text: &str) -> String {
    let words: String = text.chars().take(TEXT_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let words = folder::shown(words.as_ref());
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a file was found to be.
pub(super) enum Verdict<T> {
    Ready(Digest, Arc<T>),
    /// It has the digest that the asker already judged.
    Known,
    NeedsCompile(Digest),
    Refused(Option<Digest>, Refused),
    /// The asker did not want it any more when its turn to be compiled came.
    Unwanted,
}

/// A verdict, and the stamp under which the file was read with whether that stamp can be relied on.
pub(super) struct Examined<T> {
    pub(super) read: Option<(Stamp, bool)>,
    pub(super) verdict: Verdict<T>,
}

/// A file to be examined.
#[derive(Clone)]
pub(super) struct Order {
    pub(super) path: PathBuf,
    /// The file's name as it is shown.
    pub(super) name: String,
    /// The digest that the asker already judged.
    pub(super) known: Option<Digest>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Quick,
    Compile,
}

struct Inner<P: Preparer> {
    compiler: Compiler,
    cache: Option<Cache>,
    cache_fault: Option<String>,
    preparer: P,
    live: Mutex<HashMap<Digest, Weak<P::Prepared>>>,
    preparing: Mutex<()>,
    readers: Semaphore,
    max_file_bytes: u64,
    compile_time_limit: Duration,
}

/// Loads plugins from files, in the folder or elsewhere. Cheap to clone.
pub struct Loader<P: Preparer>(Arc<Inner<P>>);

impl<P: Preparer> Clone for Loader<P> {
    fn clone(&self) -> Self {
        Loader(self.0.clone())
    }
}

impl<P: Preparer> Loader<P> {
    /// Opens the compile cache and starts the threads that compile. The settings' folder plays no part.
    ///
    /// # Errors
    /// The threads cannot be started. A cache that cannot be trusted is no error; see [`Loader::cache_fault`].
    pub fn open(settings: &PluginSettings, engine: Engine, preparer: P) -> Result<Self, PluginError> {
        let compiler = Compiler::open(engine, settings.compile_threads)?;
        let (cache, cache_fault) = match Cache::open(&settings.cache) {
            Ok(cache) => (Some(cache), None),
            Err(why) => (None, Some(why)),
        };
        if let Some(why) = &cache_fault {
            tracing::warn!(why, "plugins are compiled at every start, without a cache");
        }
        Ok(Loader(Arc::new(Inner {
            compiler,
            cache,
            cache_fault,
            preparer,
            live: Mutex::new(HashMap::new()),
            preparing: Mutex::new(()),
            readers: Semaphore::new(READERS),
            max_file_bytes: settings.max_file_bytes,
            compile_time_limit: settings.compile_time_limit,
        })))
    }

    /// Loads one file, with the same validation, limits and cache as the folder's plugins.
    ///
    /// # Errors
    /// The sentence of refusal.
    pub async fn load(&self, path: &Path) -> Result<Loaded<P::Prepared>, Refused> {
        let name = folder::shown(path.file_name().unwrap_or(path.as_os_str()));
        let stem = path.file_stem().map(folder::shown).unwrap_or_default();
        let order = Order { path: path.to_owned(), name: name.clone(), known: None };
        match self.examine(order, || {}, || true).await.verdict {
            Verdict::Ready(digest, prepared) => Ok(Loaded { digest, stem, prepared }),
            Verdict::Refused(_, refused) => Err(refused),
            Verdict::Known | Verdict::NeedsCompile(_) | Verdict::Unwanted => Err(Refused::for_now(given_up(&name))),
        }
    }

    /// How many components were compiled, rather than found in memory or in the cache.
    pub fn compiles(&self) -> u64 {
        self.0.compiler.compiles()
    }

    /// Why there is no compile cache, if so.
    pub fn cache_fault(&self) -> Option<&str> {
        self.0.cache_fault.as_deref()
    }

    /// Examines a file. `compiling` is called when it has to be compiled, `wanted` when its turn has come.
    pub(super) async fn examine(&self, order: Order, compiling: impl FnOnce(), wanted: impl FnOnce() -> bool) -> Examined<P::Prepared> {
        let quick = self.quick(order.clone()).await;
        let Verdict::NeedsCompile(digest) = quick.verdict else { return quick };
        compiling();
        let (inner, name) = (self.0.clone(), order.name.clone());
        let mut unwanted = false;
        let begun = || {
            unwanted = !wanted();
            !unwanted
        };
        let answer = self.0.compiler.in_turn(begun, move || inner.look(&order, Step::Compile)).await;
        let size = quick.read.map_or(0, |(stamp, _)| stamp.size());
        match tokio::time::timeout(self.0.time_limit(size), answer).await {
            Ok(Ok(examined)) => examined,
            Ok(Err(_)) if unwanted => Examined { verdict: Verdict::Unwanted, ..quick },
            Ok(Err(_)) => Examined { verdict: Verdict::Refused(None, Refused::for_now(given_up(&name))), ..quick },
            Err(_) => Examined { verdict: Verdict::Refused(Some(digest), self.0.too_slow(&name, size)), ..quick },
        }
    }

    async fn quick(&self, order: Order) -> Examined<P::Prepared> {
        let _permit = self.0.readers.acquire().await;
        let (inner, name) = (self.0.clone(), order.name.clone());
        let looked = tokio::task::spawn_blocking(move || inner.look(&order, Step::Quick)).await;
        looked.unwrap_or_else(|_| Examined { read: None, verdict: Verdict::Refused(None, Refused::for_now(given_up(&name))) })
    }
}

fn given_up(name: &str) -> String {
    format!("loading `{name}` was given up: try it again")
}

impl<P: Preparer> Inner<P> {
    /// Reads the file anew at each step, so that no bytes wait in memory for their turn to be compiled.
    fn look(&self, order: &Order, step: Step) -> Examined<P::Prepared> {
        let looked = match step {
            Step::Quick => self.look_quickly(order),
            Step::Compile => self.look_whole(order, |digest, bytes| match self.find(order, digest)? {
                Some(verdict) => Ok(verdict),
                None => {
                    prescan(&order.name, bytes, Caps::DEFAULT).map_err(Refused::for_good)?;
                    let component = self.compile(&order.name, digest, bytes)?;
                    Ok(Verdict::Ready(digest, self.prepare_once(&order.name, digest, &component)?))
                }
            }),
        };
        looked.unwrap_or_else(|refused| Examined { read: None, verdict: Verdict::Refused(None, refused) })
    }

    fn look_quickly(&self, order: &Order) -> Result<Examined<P::Prepared>, Refused> {
        let file = folder::digest_whole(&order.path, &order.name, self.max_file_bytes)?;
        let digest = file.content;
        let verdict = match self.find(order, digest) {
            Ok(Some(verdict)) => verdict,
            Ok(None) => {
                return self.look_whole(order, |digest, bytes| {
                    prescan(&order.name, bytes, Caps::DEFAULT).map_err(Refused::for_good)?;
                    Ok(Verdict::NeedsCompile(digest))
                });
            }
            Err(refused) => Verdict::Refused(Some(digest), refused),
        };
        Ok(Examined { read: Some((file.stamp, file.settled)), verdict })
    }

    fn look_whole(
        &self,
        order: &Order,
        judge: impl FnOnce(Digest, &[u8]) -> Result<Verdict<P::Prepared>, Refused>,
    ) -> Result<Examined<P::Prepared>, Refused> {
        let file = folder::read_whole(&order.path, &order.name, self.max_file_bytes)?;
        let digest = Digest::of(&file.content);
        let verdict = judge(digest, &file.content).unwrap_or_else(|refused| Verdict::Refused(Some(digest), refused));
        Ok(Examined { read: Some((file.stamp, file.settled)), verdict })
    }

    /// The verdict on a digest that was judged before: by the asker, for another file, or by an earlier daemon.
    fn find(&self, order: &Order, digest: Digest) -> Result<Option<Verdict<P::Prepared>>, Refused> {
        if order.known == Some(digest) {
            return Ok(Some(Verdict::Known));
        }
        if let Some(prepared) = self.living(&digest) {
            return Ok(Some(Verdict::Ready(digest, prepared)));
        }
        let cached = self.cache.as_ref().and_then(|cache| cache.load(self.compiler.engine(), &digest));
        let Some(component) = cached else { return Ok(None) };
        Ok(Some(Verdict::Ready(digest, self.prepare_once(&order.name, digest, &component)?)))
    }

    fn compile(&self, name: &str, digest: Digest, bytes: &[u8]) -> Result<Component, Refused> {
        let started = Instant::now();
        let component = self.compiler.compile(name, bytes).map_err(Refused::for_good)?;
        // What was refused as too slow must not be found in the cache at the next start.
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if started.elapsed() > self.time_limit(size) {
            return Err(self.too_slow(name, size));
        }
        if let Some(cache) = &self.cache {
            cache.store(self.compiler.engine(), &digest, &component);
        }
        Ok(component)
    }

    /// How long a component of so many bytes may take: compiles give way to everything else, and a large one that a busy machine
    /// holds up must not be refused for it.
    fn time_limit(&self, bytes: u64) -> Duration {
        let more = u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
        self.compile_time_limit.saturating_add((self.compile_time_limit / 4).saturating_mul(more))
    }

    fn too_slow(&self, name: &str, bytes: u64) -> Refused {
        let limit = self.time_limit(bytes).as_secs_f64();
        Refused::for_good(format!("compiling `{name}` takes longer than {limit} s: make it smaller or raise the limit"))
    }

    fn living(&self, digest: &Digest) -> Option<Arc<P::Prepared>> {
        self.live().get(digest).and_then(Weak::upgrade)
    }

    /// One at a time, so that two files with the same bytes that come together find the first one's preparation.
    fn prepare_once(&self, name: &str, digest: Digest, component: &Component) -> Result<Arc<P::Prepared>, Refused> {
        let _turn = self.preparing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = self.living(&digest) {
            return Ok(first);
        }
        let prepared = guarded(name, "preparing", || self.preparer.prepare(component)).map_err(Refused::for_good)?;
        let prepared = Arc::new(prepared);
        let mut live = self.live();
        live.retain(|_, weak| weak.strong_count() > 0);
        live.insert(digest, Arc::downgrade(&prepared));
        Ok(prepared)
    }

    fn live(&self) -> MutexGuard<'_, HashMap<Digest, Weak<P::Prepared>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn texts_of_plugins_come_out_on_one_bounded_line() {
        assert_eq!(one_line("expected\n  `\u{1b}[31m`\tfound"), "expected ` [31m` found");
        assert_eq!(one_line(&"x".repeat(5000)).len(), super::TEXT_CHARS);
    }
}
