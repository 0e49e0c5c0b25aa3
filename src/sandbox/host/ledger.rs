//! The account of a workspace: bytes and names, charged before they are used.
//!
//! Invariant: what is charged is never less than what lives in the workspace, files that are unlinked but still open included.
//! Credit is given only for what is certainly gone. A sparse file is charged with its whole size.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Weak};

use rustix::fs::fstat;

use crate::sandbox::meter::Trip;
use crate::sandbox::spec::DiskUse;

/// Device and number of a file.
pub(crate) type Inode = (u64, u64);

/// How a file is going to grow.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Growth {
    /// To at least this many bytes.
    To(u64),
    /// By this many bytes at its end.
    By(u64),
}

/// What was removed from a folder, as it was before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Removed {
    /// Its size.
    pub(crate) bytes: u64,
    /// How many names it had.
    pub(crate) links: u64,
    /// Whether it can be open elsewhere: only regular files can.
    pub(crate) regular: bool,
}

/// A file that the guest has open.
#[derive(Default)]
struct Entry {
    /// What is charged for it: its size, or more while writes are under way.
    charged: u64,
    /// Writes and truncations under way.
    pending: u32,
    /// It has no name any more.
    orphan: bool,
    /// The guest's descriptors of it; streams and writes under way hold them too.
    opens: Vec<Weak<File>>,
}

impl Entry {
    fn in_use(&mut self) -> bool {
        self.opens.retain(|open| open.strong_count() > 0);
        self.pending > 0 || !self.opens.is_empty()
    }
}

/// The account.
pub(crate) struct Ledger {
    used: DiskUse,
    most: DiskUse,
    entries: HashMap<Inode, Entry>,
    sweep_at: usize,
}

fn stat(file: &File) -> io::Result<(Inode, u64)> {
    let stat = fstat(file)?;
    Ok(((stat.st_dev, stat.st_ino), u64::try_from(stat.st_size).unwrap_or(0)))
}

impl Ledger {
    /// An account that starts with what the workspace holds.
    pub(crate) fn new(used: DiskUse, most: DiskUse) -> Self {
        Ledger { used, most, entries: HashMap::new(), sweep_at: 64 }
    }

    /// What is charged.
    pub(crate) fn used(&mut self) -> DiskUse {
        self.sweep();
        self.used
    }

    /// Notes that the guest has a file open.
    ///
    /// # Errors
    /// The file cannot be looked at.
    pub(crate) fn opened(&mut self, file: &Arc<File>) -> io::Result<()> {
        let inode = self.entry(file)?;
        if let Some(entry) = self.entries.get_mut(&inode) {
            // Forgetting closed ones only now and then keeps many opens of one file cheap.
            if entry.opens.len().is_power_of_two() {
                entry.opens.retain(|open| open.strong_count() > 0);
            }
            entry.opens.push(Arc::downgrade(file));
        }
        Ok(())
    }

    /// Charges for a file's growth, before it happens. [`Ledger::settle`] must follow.
    ///
    /// # Errors
    /// The file cannot be looked at; [`Refused::Limit`] when there is no room.
    pub(crate) fn grow(&mut self, file: &File, growth: Growth) -> Result<Inode, Refused> {
        let inode = self.entry(file)?;
        let charged = self.entries.get(&inode).map_or(0, |entry| entry.charged);
        let after = match growth {
            Growth::To(bytes) => charged.max(bytes),
            Growth::By(bytes) => charged.saturating_add(bytes),
        };
        self.charge_bytes(after.saturating_sub(charged))?;
        let entry = self.entries.entry(inode).or_default();
        entry.charged = after;
        entry.pending = entry.pending.saturating_add(1);
        Ok(inode)
    }

    /// Ends what [`Ledger::grow`] began, whether it succeeded or not.
    pub(crate) fn settle(&mut self, inode: Inode, file: &File) {
        let Some(entry) = self.entries.get_mut(&inode) else { return };
        entry.pending = entry.pending.saturating_sub(1);
        if entry.pending == 0
            && let Ok((_, size)) = stat(file)
        {
            self.used.bytes = self.used.bytes.saturating_sub(entry.charged).saturating_add(size);
            entry.charged = size;
        }
    }

    /// Charges for one more name, and for the bytes that a link's target takes.
    ///
    /// # Errors
    /// [`Refused::Limit`] when there is no room.
    pub(crate) fn add_name(&mut self, bytes: u64) -> Result<(), Refused> {
        if self.used.files >= self.most.files {
            self.sweep();
        }
        if self.used.files >= self.most.files {
            return Err(Refused::Limit(Trip::DiskFiles));
        }
        self.charge_bytes(bytes)?;
        self.used.files = self.used.files.saturating_add(1);
        Ok(())
    }

    /// Gives back what [`Ledger::add_name`] charged for a name that did not come to be.
    pub(crate) fn drop_name(&mut self, bytes: u64) {
        self.used.bytes = self.used.bytes.saturating_sub(bytes);
        self.used.files = self.used.files.saturating_sub(1);
    }

    /// Credits for a name that was removed; its bytes only when nothing else holds them.
    pub(crate) fn removed(&mut self, what: Removed) {
        if what.links > 1 {
            return self.drop_name(0);
        }
        self.sweep();
        let still_open = what.regular && self.entries.values_mut().any(Self::became_orphan);
        if !still_open {
            self.drop_name(what.bytes);
        }
    }

    /// Whether this is the open file whose last name was just removed.
    fn became_orphan(entry: &mut Entry) -> bool {
        if entry.orphan {
            return false;
        }
        let file = entry.opens.iter().find_map(Weak::upgrade);
        entry.orphan = file.is_some_and(|file| fstat(&*file).is_ok_and(|stat| stat.st_nlink == 0));
        entry.orphan
    }

    fn charge_bytes(&mut self, bytes: u64) -> Result<(), Refused> {
        if bytes == 0 {
            return Ok(());
        }
        if self.used.bytes.saturating_add(bytes) > self.most.bytes {
            self.sweep();
        }
        let after = self.used.bytes.saturating_add(bytes);
        if after > self.most.bytes {
            return Err(Refused::Limit(Trip::DiskBytes));
        }
        self.used.bytes = after;
        Ok(())
    }

    /// The file's entry, brought up to its size unless writes are under way.
    fn entry(&mut self, file: &File) -> io::Result<Inode> {
        let (inode, size) = stat(file)?;
        if self.entries.len() >= self.sweep_at {
            self.sweep();
            self.sweep_at = self.entries.len().saturating_mul(2).max(64);
        }
        // A file without an entry is not open, and its size was charged when it got it.
        let entry = self.entries.entry(inode).or_insert_with(|| Entry { charged: size, ..Entry::default() });
        if entry.pending == 0 && entry.charged != size {
            self.used.bytes = self.used.bytes.saturating_sub(entry.charged).saturating_add(size);
            entry.charged = size;
        }
        Ok(inode)
    }

    /// Forgets files that nobody has open, and credits those among them that have no name.
    fn sweep(&mut self) {
        let used = &mut self.used;
        self.entries.retain(|_, entry| {
            let keep = entry.in_use();
            if !keep && entry.orphan {
                used.bytes = used.bytes.saturating_sub(entry.charged);
                used.files = used.files.saturating_sub(1);
            }
            keep
        });
    }
}

/// Why the account did not take a charge.
#[derive(Debug)]
pub(crate) enum Refused {
    /// A limit is reached.
    Limit(Trip),
    /// The file cannot be looked at.
    Io(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Refused::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    struct Room {
        dir: tempfile::TempDir,
        ledger: Ledger,
    }

    impl Room {
        fn new(bytes: u64, files: u64) -> Self {
            Room { dir: tempfile::tempdir().unwrap(), ledger: Ledger::new(DiskUse::default(), DiskUse { bytes, files }) }
        }

        fn create(&mut self, name: &str) -> Arc<File> {
            self.ledger.add_name(0).unwrap();
            let file = File::options().create_new(true).read(true).write(true).open(self.dir.path().join(name)).unwrap();
            let file = Arc::new(file);
            self.ledger.opened(&file).unwrap();
            file
        }

        fn write(&mut self, file: &File, at: u64, bytes: u64) -> Result<(), Refused> {
            let inode = self.ledger.grow(file, Growth::To(at + bytes))?;
            file.write_all_at(&vec![1; bytes as usize], at).unwrap();
            self.ledger.settle(inode, file);
            Ok(())
        }

        fn unlink(&mut self, name: &str, bytes: u64) {
            std::fs::remove_file(self.dir.path().join(name)).unwrap();
            self.ledger.removed(Removed { bytes, links: 1, regular: true });
        }
    }

    #[test]
    fn rewriting_costs_nothing_and_growth_is_refused_at_the_limit() {
        let mut room = Room::new(100, 10);
        let file = room.create("a");
        room.write(&file, 0, 100).unwrap();
        room.write(&file, 50, 50).unwrap();
        assert!(matches!(room.write(&file, 100, 1), Err(Refused::Limit(Trip::DiskBytes))));
        assert_eq!(room.ledger.used(), DiskUse { bytes: 100, files: 1 });
    }

    #[test]
    fn an_unlinked_file_is_charged_until_it_is_closed() {
        let mut room = Room::new(100, 10);
        let file = room.create("a");
        room.write(&file, 0, 80).unwrap();
        room.unlink("a", 80);
        room.write(&file, 80, 10).unwrap();
        assert_eq!(room.ledger.used(), DiskUse { bytes: 90, files: 1 });
        let other = room.create("b");
        assert!(room.write(&other, 0, 20).is_err());
        drop(file);
        room.write(&other, 0, 20).unwrap();
        assert_eq!(room.ledger.used(), DiskUse { bytes: 20, files: 1 });
    }

    #[test]
    fn a_closed_file_is_credited_when_it_is_unlinked() {
        let mut room = Room::new(100, 1);
        for _ in 0..3 {
            let file = room.create("a");
            room.write(&file, 0, 100).unwrap();
            drop(file);
            room.unlink("a", 100);
        }
        assert_eq!(room.ledger.used(), DiskUse::default());
    }

    #[test]
    fn writes_under_way_keep_a_truncation_from_being_credited() {
        let mut room = Room::new(100, 10);
        let file = room.create("a");
        let writing = room.ledger.grow(&file, Growth::To(60)).unwrap();
        let cutting = room.ledger.grow(&file, Growth::To(0)).unwrap();
        file.set_len(0).unwrap();
        room.ledger.settle(cutting, &file);
        assert_eq!(room.ledger.used().bytes, 60);
        file.write_all_at(&[1; 60], 0).unwrap();
        room.ledger.settle(writing, &file);
        assert_eq!(room.ledger.used().bytes, 60);
    }

    #[test]
    fn appends_under_way_add_up() {
        let mut room = Room::new(100, 10);
        let file = room.create("a");
        room.ledger.grow(&file, Growth::By(60)).unwrap();
        assert!(room.ledger.grow(&file, Growth::By(60)).is_err());
        assert!(room.ledger.grow(&file, Growth::To(u64::MAX)).is_err());
    }

    #[test]
    fn a_name_of_a_file_with_others_gives_no_bytes_back() {
        let mut room = Room::new(100, 3);
        let file = room.create("a");
        room.write(&file, 0, 50).unwrap();
        room.ledger.add_name(0).unwrap();
        room.ledger.removed(Removed { bytes: 50, links: 2, regular: true });
        assert_eq!(room.ledger.used(), DiskUse { bytes: 50, files: 1 });
        room.ledger.add_name(10).unwrap();
        room.ledger.add_name(0).unwrap();
        assert!(matches!(room.ledger.add_name(0), Err(Refused::Limit(Trip::DiskFiles))));
    }
}
