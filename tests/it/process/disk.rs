//! A small disk: a tmpfs in a mount namespace of its own. It is gone with the process that holds the namespace, and that one is gone
//! with the test, however it ends.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use rustix::fs::statvfs;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::daemon::{Home, Starting};
use crate::cli::stage::{binary, program};

/// Leaves out the tests that need a disk of their own, where none can be mounted.
const LEAVE_OUT: &str = "SANDCLOCK_TEST_NO_MOUNT";

/// The file that takes the room.
const BALLAST: &str = "ballast";

/// A home with a small disk in it, which only daemons started through it see.
pub struct SmallDisk {
    pub home: Home,
    holder: Child,
    name: &'static str,
}

impl SmallDisk {
    /// Mounts a disk of so many bytes as a folder of this name; none where the environment leaves these tests out.
    pub async fn mount(home: Home, name: &'static str, bytes: u64) -> Option<SmallDisk> {
        if std::env::var_os(LEAVE_OUT).is_some() {
            println!("left out, for {LEAVE_OUT} is set: a test that needs a small disk of its own");
            return None;
        }
        std::fs::create_dir(home.path(name)).unwrap();
        let mut command = Command::new("unshare");
        command.arg("--mount").args((!rustix::process::geteuid().is_root()).then_some("--map-root-user"));
        // Its input ends with this process, and its namespace with its input.
        command.args(["--", "sh", "-c", "mount -t tmpfs -o size=\"$1\",mode=755 tmpfs \"$2\" && echo mounted && exec cat", "sh"]);
        command.arg(bytes.to_string()).arg(home.path(name));
        let holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn();
        let mut holder = holder.unwrap_or_else(|error| panic!("{}", cannot(&error.to_string())));
        let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
        if lines.next_line().await.unwrap().as_deref() != Some("mounted") {
            let told = holder.wait_with_output().await.unwrap();
            panic!("{}", cannot(String::from_utf8_lossy(&told.stderr).trim()));
        }
        Some(SmallDisk { home, holder, name })
    }

    /// Starts a daemon that has the disk; it may not listen yet.
    pub fn spawn(&self) -> Starting {
        let folder = self.home.0.path();
        let mut command = program(folder, OsStr::new("nsenter"));
        command.env("SANDCLOCK_LISTEN", "127.0.0.1:0").arg("--target").arg(self.holder.id().unwrap().to_string()).arg("--mount");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.args(["--", "sh", "-c", "cd \"$0\" && exec \"$@\""]).arg(folder).arg(binary());
        command.args(["serve", "--config", "sandclock.toml"]);
        Starting::new(command)
    }

    /// A path on the disk, as this process reaches it.
    pub fn path(&self, name: &str) -> PathBuf {
        let inside = self.home.path(self.name);
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id().unwrap()));
        root.join(inside.strip_prefix("/").unwrap()).join(name)
    }

    /// Takes what room there is, all but so many bytes.
    pub fn fill(&self, but: u64) {
        let mut ballast = OpenOptions::new().append(true).create(true).open(self.path(BALLAST)).unwrap();
        let free = || {
            let disk = statvfs(self.path("")).unwrap();
            usize::try_from((disk.f_bfree * disk.f_frsize).saturating_sub(but)).unwrap()
        };
        // Others may be faster: then there is no room, as wanted.
        while free() > 0 && ballast.write_all(&vec![0xba; free()]).is_ok() {}
    }

    /// Gives back what [`SmallDisk::fill`] took.
    pub fn make_room(&self) {
        std::fs::remove_file(self.path(BALLAST)).unwrap();
    }
}

fn cannot(why: &str) -> String {
    format!(
        "a small disk cannot be mounted ({why}): run the tests as root or where user namespaces may mount a tmpfs, or set \
         {LEAVE_OUT}=1 to leave these tests out"
    )
}
