//! Gives a run's next attempt a directory of its own where the one before it may still be at work in another process.
//!
//! Beside the workspace `run_X` lies `run_X@aside`. In it `fence-F` is the directory in which the attempts up to fence F worked, and
//! `copy-F` the copy that the attempt under fence F is making, with `links-F` for it. A takeover makes `fence-F` first, which takes the
//! name `run_X` from that directory, and `run_X` last, by renaming a whole copy: what is found tells how far an earlier try came, and the
//! next one goes on from there.
//!
//! Invariants: `run_X` is absent or whole, and nobody who was there before the takeover has it open; a directory that is set aside
//! stays until a newer one is, or the run is deleted. An attempt that finds traces of a newer one changes nothing.
//!
//! How it fails: in any step, with what is there left to the next attempt. What a paused process had already handed to the kernel still
//! happens; whether it may go on is asked right before each step that counts.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, RenameFlags, mkdirat, renameat, renameat_with, statat, unlinkat};
use rustix::io::Errno;

use super::copy::{self, Fault, Terms};
use super::parents::MODE;
use super::usage::DiskUsage;
use super::{beneath, removal};

/// What the folder of the set-aside directories adds to the workspace's name. No workspace can have such a name.
const ASIDE: &str = "@aside";

/// For whom a directory is taken over, from whom, and how much of it.
#[derive(Clone, Copy, Debug)]
pub struct Takeover {
    /// The fence of the attempt that is to have a directory of its own.
    pub fence: u64,
    /// The fence of the latest attempt that was lost to it and may still be at work; none when all before it have ended.
    pub lost: Option<u64>,
    /// The most that is copied, mirrors apart.
    pub most: DiskUsage,
}

/// What lies beside a workspace, by fence.
#[derive(Default)]
struct Aside {
    /// Directories that were set aside, oldest first.
    generations: Vec<u64>,
    /// Copies that were not finished, and what belongs to them, by their names.
    unfinished: Vec<(u64, String)>,
}

fn generation(fence: u64) -> String {
    format!("fence-{fence}")
}

impl Aside {
    fn read(aside: &OwnedFd) -> Result<Aside, Errno> {
        let mut found = Aside::default();
        for entry in Dir::new(beneath::directory(aside, c".")?)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            let Some((what, fence)) = name.rsplit_once('-') else { continue };
            match (what, fence.parse()) {
                ("fence", Ok(fence)) => found.generations.push(fence),
                ("copy" | "links", Ok(fence)) => found.unfinished.push((fence, name.into_owned())),
                _ => {}
            }
        }
        found.generations.sort_unstable();
        Ok(found)
    }

    /// Whether an attempt with a higher fence was here.
    fn is_newer_than(&self, fence: u64) -> bool {
        let all = self.generations.iter().copied().chain(self.unfinished.iter().map(|(of, _)| of.saturating_sub(1)));
        all.max().is_some_and(|newest| newest >= fence)
    }
}

/// Makes `name` in `parent` a directory that no lost attempt has, with what the last of them left; answers what it holds when that was
/// copied now, and nothing when it was there already or is new.
pub(super) fn take_over(parent: &OwnedFd, name: &str, of: Takeover, may_go_on: &dyn Fn() -> bool) -> Result<Option<DiskUsage>, Fault> {
    let go_on = || if may_go_on() { Ok(()) } else { Err(Fault::Stopped) };
    let is_there = || exists(parent, name);
    let beside = format!("{name}{ASIDE}");
    let Some(lost) = of.lost else {
        // Only a takeover that did not come to its end leaves a run without its directory.
        let newest = if is_there()? { None } else { newest(parent, &beside)? };
        return match newest {
            Some(lost) => take_over(parent, name, Takeover { lost: Some(lost), ..of }, may_go_on),
            None => Ok(None),
        };
    };
    match mkdirat(parent, &beside, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let aside = beneath::base(parent, &beside)?;
    let found = Aside::read(&aside)?;
    if found.is_newer_than(of.fence) {
        return Err(Fault::Stopped);
    }
    go_on()?;
    // Whoever was making one of these finds nothing to rename.
    for (_, unfinished) in &found.unfinished {
        removal::remove_tree(&aside, unfinished)?;
    }
    if found.generations.contains(&lost) {
        if is_there()? {
            return Ok(None);
        }
    } else {
        go_on()?;
        set_aside(parent, name, &aside, lost, found.generations.last().copied())?;
    }
    let copied = copy_of(&aside, lost, of, may_go_on)?;
    go_on()?;
    give_name(&aside, &format!("copy-{}", of.fence), parent, name)?;
    for old in found.generations.into_iter().filter(|fence| *fence < lost) {
        // What cannot be removed now is removed with the run.
        let _ = removal::remove_tree(&aside, &generation(old));
    }
    Ok(Some(copied))
}

/// Makes the empty directory in which the attempt under this fence gathers its workspace, before that gets its name.
pub(super) fn begin(parent: &OwnedFd, name: &str, fence: u64) -> Result<OwnedFd, Fault> {
    let beside = format!("{name}{ASIDE}");
    match mkdirat(parent, &beside, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let aside = beneath::base(parent, &beside)?;
    let found = Aside::read(&aside)?;
    if found.is_newer_than(fence) {
        return Err(Fault::Stopped);
    }
    for (_, unfinished) in &found.unfinished {
        removal::remove_tree(&aside, unfinished)?;
    }
    let made = format!("copy-{fence}");
    mkdirat(&aside, &made, MODE)?;
    Ok(beneath::base(&aside, &made)?)
}

/// Gives what was gathered under this fence the workspace's name, and sets aside what had it; that is kept where a lost attempt may still
/// be at work in it, and no older one is.
pub(super) fn finish(parent: &OwnedFd, name: &str, fence: u64, may_be_at_work: bool, may_go_on: &dyn Fn() -> bool) -> Result<(), Fault> {
    let beside = format!("{name}{ASIDE}");
    let aside = beneath::base(parent, &beside)?;
    let before = generation(fence.saturating_sub(1));
    if !may_go_on() {
        return Err(Fault::Stopped);
    }
    match rename_to_free(parent, name, &aside, &before) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    if !may_go_on() {
        return Err(Fault::Stopped);
    }
    give_name(&aside, &format!("copy-{fence}"), parent, name)?;
    for old in Aside::read(&aside)?.generations {
        if !(may_be_at_work && generation(old) == before) {
            // What cannot be removed now is removed with the run.
            let _ = removal::remove_tree(&aside, &generation(old));
        }
    }
    // It stays where something is left in it.
    let _ = unlinkat(parent, &beside, AtFlags::REMOVEDIR);
    Ok(())
}

/// Removes all that was set aside for a workspace.
pub(super) fn remove(parent: impl AsFd, name: &str) -> Result<(), Errno> {
    removal::remove_tree(parent, &format!("{name}{ASIDE}"))
}

fn exists(parent: &OwnedFd, name: &str) -> Result<bool, Errno> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// The fence of the newest directory that was set aside.
fn newest(parent: &OwnedFd, beside: &str) -> Result<Option<u64>, Errno> {
    match beneath::base(parent, beside) {
        Ok(aside) => Ok(Aside::read(&aside)?.generations.pop()),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Takes the workspace's name from the directory that has it. Where none has, an earlier takeover did not come to its end, and what it
/// set aside counts; or there never was one.
fn set_aside(parent: &OwnedFd, name: &str, aside: &OwnedFd, lost: u64, before: Option<u64>) -> Result<(), Errno> {
    let generation_of_lost = generation(lost);
    match rename_to_free(parent, name, aside, &generation_of_lost) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    match before {
        Some(before) => rename_to_free(aside, &generation(before), aside, &generation_of_lost),
        None => mkdirat(aside, &generation_of_lost, MODE),
    }
}

fn copy_of(aside: &OwnedFd, lost: u64, of: Takeover, may_go_on: &dyn Fn() -> bool) -> Result<DiskUsage, Fault> {
    let [to, links] = ["copy", "links"].map(|what| format!("{what}-{}", of.fence));
    for made in [&to, &links] {
        mkdirat(aside, made, Mode::RWXU)?;
    }
    let source = beneath::directory(aside, generation(lost))?;
    let keep = statat(aside, generation(lost), AtFlags::SYMLINK_NOFOLLOW)?;
    let made = copy::copy(source, beneath::base(aside, &to)?, Terms { links: &beneath::base(aside, &links)?, most: of.most, may_go_on });
    removal::remove_tree(aside, &links)?;
    match made {
        Ok(copied) => {
            copy::keep(aside, to.as_str(), &keep)?;
            Ok(copied)
        }
        Err(fault) => {
            // The fault that counts is the first one, and the next takeover removes what is left.
            let _ = removal::remove_tree(aside, &to);
            Err(fault)
        }
    }
}

/// Gives the copy the workspace's name. An empty directory that a lost attempt has just made under it is in the way for nothing.
fn give_name(aside: &OwnedFd, copy: &str, parent: &OwnedFd, name: &str) -> Result<(), Errno> {
    match rename_to_free(aside, copy, parent, name) {
        Err(Errno::EXIST | Errno::NOTEMPTY) => {
            unlinkat(parent, name, AtFlags::REMOVEDIR)?;
            rename_to_free(aside, copy, parent, name)
        }
        other => other,
    }
}

/// Renames unless something has the new name.
fn rename_to_free(from: &OwnedFd, name: &str, to: &OwnedFd, free: &str) -> Result<(), Errno> {
    match renameat_with(from, name, to, free, RenameFlags::NOREPLACE) {
        // Some network file systems cannot rename without replacing; a directory is not replaced unless it is empty.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if !exists(to, free)? => renameat(from, name, to, free),
        other => other,
    }
}
