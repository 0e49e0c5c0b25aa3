//! The compile cache: compiled components in a private directory, so that no component is compiled twice.
//!
//! Invariant: nothing is deserialized that this daemon, or an earlier one with the same key, did not write: a compiled
//! component is machine code. The directory belongs to the daemon's user and to nobody else's pen, it is held by its
//! descriptor, and every file carries a keyed hash over its name and its content. A file is never written in place, because it may be mapped.
//!
//! How it fails: a directory or a key that cannot be trusted means no cache; a file that does not verify is deleted and
//! the component compiled again; a file that cannot be written is told once per file and costs a compile later.

use std::fs::{DirBuilder, File};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::Digest;
use super::digest::in_chunks;

const MAGIC: &[u8; 8] = b"sandclk1";
/// A file ends in the magic and the keyed hash; before them the compiled component has the offset that mapping it needs.
const TRAILER_BYTES: u64 = 8 + 32;
const KEY_FILE: &str = "key";
const TEMPORARY: &str = ".new-";
/// What the files of the cache may come to together.
const MAX_TOTAL_BYTES: u64 = 512 << 20;
/// After this a temporary file has no writer any more.
const ABANDONED_SECONDS: i64 = 3600;

pub(super) struct Cache {
    directory: OwnedFd,
    key: [u8; 32],
    max_total_bytes: u64,
    temporaries: AtomicU64,
}

impl Cache {
    /// Opens the cache, and makes its directory and its key where there are none.
    ///
    /// # Errors
    /// Why it cannot be trusted or used, as a sentence.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| format!("the compile cache `{shown}` cannot be made: {error}; give the daemon a directory of its own"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| format!("the compile cache `{shown}` cannot be opened: {error}; it must be a directory, not a link"))?;
        let stat = rustix::fs::fstat(&directory).map_err(|error| format!("the compile cache `{shown}` cannot be looked at: {error}"))?;
        if !is_ours(&stat) {
            return Err(format!("the compile cache `{shown}` belongs to another user: give the daemon a directory of its own"));
        }
        if stat.st_mode & 0o022 != 0 {
            return Err(format!("the compile cache `{shown}` can be written by other users: `chmod 700` it and empty it"));
        }
        let mut cache = Cache { directory, key: [0; 32], max_total_bytes: MAX_TOTAL_BYTES, temporaries: AtomicU64::new(0) };
        cache.key = cache.keep_key().map_err(|error| format!("the compile cache `{shown}` can have no key: {error}"))?;
        Ok(cache)
    }

    /// The compiled form of a plugin, when the cache has one that verifies.
    pub(super) fn load(&self, engine: &Engine, digest: &Digest) -> Option<Component> {
        let name = file_name(engine, digest);
        let verified = match self.open_file(&name).and_then(|(file, stat)| self.verify(&name, file, &stat)) {
            Ok(Some(verified)) => verified,
            Ok(None) => return self.discard(&name, "its keyed hash is not this daemon's"),
            Err(Errno::NOENT) => return None,
            Err(error) => return self.discard(&name, &error.to_string()),
        };
        match deserialize(engine, &verified) {
            Ok(component) => Some(component),
            Err(error) => self.discard(&name, &super::loader::one_line(&format!("{error:#}"))),
        }
    }

    /// Keeps the compiled form of a plugin, and makes room for it.
    pub(super) fn store(&self, engine: &Engine, digest: &Digest, component: &Component) {
        let name = file_name(engine, digest);
        let stored = component.serialize().map_err(|error| format!("{error:#}")).and_then(|compiled| {
            let size = u64::try_from(compiled.len()).unwrap_or(u64::MAX);
            if size > self.max_total_bytes {
                return Err(format!("it has {size} bytes, more than the whole cache may have"));
            }
            let mac = self.mac(&name).update(&compiled).finalize();
            self.write(&name, &[&compiled, MAGIC, mac.as_bytes()]).map_err(|error| error.to_string())
        });
        match stored {
            Ok(()) => self.trim(),
            Err(why) => tracing::warn!(plugin = %digest, why, "the compiled plugin is not cached and will be compiled again"),
        }
    }

    fn discard(&self, name: &str, why: &str) -> Option<Component> {
        tracing::warn!(file = name, why, "a file of the compile cache was not used; the plugin is compiled again");
        if let Err(error) = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
            tracing::warn!(file = name, %error, "that file of the compile cache could not be deleted");
        }
        None
    }

    fn mac(&self, name: &str) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(name.as_bytes());
        hasher
    }

    /// Checks a file piece by piece: it need not be in memory, because it is mapped.
    fn verify(&self, name: &str, file: File, stat: &Stat) -> rustix::io::Result<Option<Verified>> {
        let Some(length) = size_of(stat).checked_sub(TRAILER_BYTES) else { return Ok(None) };
        if length > self.max_total_bytes {
            return Ok(None);
        }
        let mut mac = self.mac(name);
        let mut trailer = Vec::with_capacity(64);
        let read = in_chunks(&mut (&file).take(length), |chunk| {
            mac.update(chunk);
        });
        let read = read.and_then(|read| (&file).take(TRAILER_BYTES + 1).read_to_end(&mut trailer).map(|_| read));
        let whole = read.map_err(|error| errno(&error))? == length;
        let Some(theirs) = trailer.strip_prefix(MAGIC).and_then(|mac| blake3::Hash::from_slice(mac).ok()) else { return Ok(None) };
        // blake3::Hash compares in constant time.
        if !whole || theirs != mac.finalize() {
            return Ok(None);
        }
        // The time of the last use decides what is dropped first; a cache that cannot note it still serves.
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let keep = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let _ = rustix::fs::futimens(&file, &Timestamps { last_access: keep, last_modification: now });
        Ok(Some(Verified(file)))
    }

    fn open_file(&self, name: &str) -> rustix::io::Result<(File, Stat)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || !is_ours(&stat) {
            return Err(Errno::PERM);
        }
        Ok((File::from(file), stat))
    }

    fn temporary(&self, parts: &[&[u8]]) -> io::Result<String> {
        let count = self.temporaries.fetch_add(1, Ordering::Relaxed);
        let name = format!("{TEMPORARY}{}-{count}", std::process::id());
        let create = || {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&self.directory, name.as_str(), flags, Mode::RUSR | Mode::WUSR)
        };
        let file = create().or_else(|error| {
            // An earlier process of the same id left it when it was killed.
            if error != Errno::EXIST {
                return Err(error);
            }
            rustix::fs::unlinkat(&self.directory, name.as_str(), AtFlags::empty())?;
            create()
        })?;
        let mut file = File::from(file);
        match parts.iter().try_for_each(|part| file.write_all(part)) {
            Ok(()) => Ok(name),
            Err(error) => {
                self.remove_quietly(&name);
                Err(error)
            }
        }
    }

    /// Without fsync: what a crash leaves half-written does not verify, and is compiled again.
    fn write(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        let temporary = self.temporary(parts)?;
        rustix::fs::renameat(&self.directory, temporary.as_str(), &self.directory, name).map_err(|error| {
            self.remove_quietly(&temporary);
            io::Error::from(error)
        })
    }

    fn remove_quietly(&self, name: &str) {
        let _ = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty());
    }

    /// The key of the directory; a new one where there is none that only we could have read.
    fn keep_key(&self) -> io::Result<[u8; 32]> {
        // Another daemon may make the key first; the second look then finds it.
        for _ in 0..3 {
            match self.read_key() {
                Ok(Some(key)) => return Ok(key),
                Ok(None) => self.remove_quietly(KEY_FILE),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            let mut key = [0; 32];
            getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
            let temporary = self.temporary(&[&key])?;
            let linked = rustix::fs::linkat(&self.directory, temporary.as_str(), &self.directory, KEY_FILE, AtFlags::empty());
            self.remove_quietly(&temporary);
            match linked {
                Ok(()) => return Ok(key),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::other("another process keeps replacing it"))
    }

    fn read_key(&self) -> rustix::io::Result<Option<[u8; 32]>> {
        let (file, stat) = match self.open_file(KEY_FILE) {
            Err(Errno::PERM | Errno::LOOP) => return Ok(None),
            other => other?,
        };
        let mut key = Vec::with_capacity(33);
        file.take(33).read_to_end(&mut key).map_err(|error| errno(&error))?;
        let private = stat.st_mode & 0o077 == 0;
        Ok(if private { <[u8; 32]>::try_from(key.as_slice()).ok() } else { None })
    }

    /// Drops the files that were not used for longest, until the rest is within bounds.
    fn trim(&self) {
        let Ok(mut files) = self.files() else { return };
        let now = files.iter().map(|(_, stat)| stat.st_mtime).max().unwrap_or(0);
        files.retain(|(name, stat)| {
            let abandoned = name.starts_with(TEMPORARY) && now.saturating_sub(stat.st_mtime) > ABANDONED_SECONDS;
            if abandoned {
                self.remove_quietly(name);
            }
            !name.starts_with(TEMPORARY) && name != KEY_FILE
        });
        files.sort_by_key(|(_, stat)| (stat.st_mtime, stat.st_mtime_nsec));
        let mut total: u64 = files.iter().map(|(_, stat)| size_of(stat)).sum();
        for (name, stat) in &files {
            if total <= self.max_total_bytes {
                break;
            }
            self.remove_quietly(name);
            total = total.saturating_sub(size_of(stat));
        }
    }

    fn files(&self) -> rustix::io::Result<Vec<(String, Stat)>> {
        let mut files = Vec::new();
        for entry in Dir::read_from(&self.directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let Ok(stat) = rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                files.push((name.to_owned(), stat));
            }
        }
        Ok(files)
    }
}

/// A file whose keyed hash was found right.
struct Verified(File);

/// Maps the file: copying a large component costs more than the rest of a reload together.
#[allow(unsafe_code)]
fn deserialize(engine: &Engine, verified: &Verified) -> wasmtime::Result<Component> {
    // The descriptor's path names the very file that was verified, whatever has its name now.
    let path = format!("/proc/self/fd/{}", verified.0.as_raw_fd());
    // SAFETY: `Verified` is made only where the keyed hash matches, and the key was never outside this daemon's private
    // directory, so the file is what `Component::serialize` gave to a daemon of this user, and a trailer that no section
    // refers to. The engine that made it was compatible, because the file's name, which the hash covers, is derived from
    // its compatibility hash. It does not change while it is mapped: nobody else may write in the directory, and we only
    // replace files whole and unlink them.
    unsafe { Component::deserialize_file(engine, path) }
}

/// The name binds the content to the plugin and to everything in the engine that its machine code depends on.
fn file_name(engine: &Engine, digest: &Digest) -> String {
    let mut hasher = NameHasher(blake3::Hasher::new());
    hasher.0.update(digest.as_bytes());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.0.finalize().to_hex().to_string()
}

/// Feeds all that an engine hashes into a hash that does not collide.
struct NameHasher(blake3::Hasher);

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

fn is_ours(stat: &Stat) -> bool {
    stat.st_uid == rustix::process::geteuid().as_raw()
}

fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn stored(cache: &Cache, engine: &Engine, number: u32) -> Digest {
        let bytes = wat::parse_str(format!("(component (core module (func (result i32) i32.const {number})))")).unwrap();
        let digest = Digest::of(&bytes);
        cache.store(engine, &digest, &Component::new(engine, &bytes).unwrap());
        digest
    }

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let (folder, engine) = (tempfile::tempdir().unwrap(), Engine::default());
        let path = folder.path().join("cache");
        let mut cache = Cache::open(&path).unwrap();
        let digests: Vec<_> = (0..3).map(|number| stored(&cache, &engine, number)).collect();
        let file = |digest: &Digest| path.join(file_name(&engine, digest));
        let long_ago = SystemTime::now() - Duration::from_secs(7200);
        let abandoned = path.join(".new-1-1");
        std::fs::write(&abandoned, "half").unwrap();
        for (path, later) in [(file(&digests[0]), 0), (file(&digests[1]), 1), (file(&digests[2]), 2), (abandoned.clone(), 3)] {
            File::open(path).unwrap().set_modified(long_ago + Duration::from_secs(later)).unwrap();
        }
        assert!(cache.load(&engine, &digests[0]).is_some(), "a use makes it the youngest");
        cache.max_total_bytes = 3 * std::fs::metadata(file(&digests[0])).unwrap().len();
        let last = stored(&cache, &engine, 3);
        let kept = [&digests[0], &digests[1], &digests[2], &last].map(|digest| file(digest).exists());
        assert_eq!(kept, [true, false, true, true]);
        assert!(!abandoned.exists() && path.join(KEY_FILE).exists());
    }

    #[test]
    fn a_component_larger_than_the_cache_is_not_kept() {
        let (folder, engine) = (tempfile::tempdir().unwrap(), Engine::default());
        let mut cache = Cache::open(&folder.path().join("cache")).unwrap();
        cache.max_total_bytes = 100;
        let digest = stored(&cache, &engine, 1);
        assert!(cache.load(&engine, &digest).is_none());
        assert_eq!(cache.files().unwrap().len(), 1, "the key alone");
    }
}
