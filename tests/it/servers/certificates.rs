//! Certificates of a test's own, made by `openssl`.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A CA, and a server's certificate that it signed.
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// For a server of these names: `IP:127.0.0.1`, `DNS:localhost`.
    pub fn new(names: &str) -> Certificates {
        let made = Certificates { folder: TempDir::with_prefix("sandclock-tls-").unwrap() };
        // A name of its own, or one CA is taken for another that signs badly.
        let subject = format!("/CN={}", made.folder.path().file_name().unwrap().to_str().unwrap());
        let days = ["-days", "2"];
        let key = ["-newkey", "rsa:2048", "-nodes", "-sha256"];
        made.openssl(&[&["req", "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", &subject], &key[..], &days].concat());
        made.openssl(&[&["req", "-new", "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=a test's server"], &key[..]].concat());
        std::fs::write(made.folder.path().join("names"), format!("subjectAltName={names}\n")).unwrap();
        let signed = ["x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names"];
        made.openssl(&[&signed[..], &["-out", "certificate.pem"], &days].concat());
        let both = [made.read("certificate.pem"), made.read("key.pem")].concat();
        std::fs::write(made.folder.path().join("both.pem"), both).unwrap();
        made
    }

    /// The CA's certificate.
    pub fn authority(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// `certificate.pem`, `key.pem`, or `both.pem`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn openssl(&self, arguments: &[&str]) {
        run(self.folder.path(), arguments);
    }
}

fn run(folder: &Path, arguments: &[&str]) {
    let done = Command::new("openssl").current_dir(folder).args(arguments).output();
    let done = done.expect("there is no openssl here: install it (on Debian `apt-get install openssl`, as root)");
    assert!(done.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}
