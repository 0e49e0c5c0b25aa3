//! The tools that work on files of the workspace. What a model gets of them is bounded, and says where it was cut.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The most names of one listing.
const MOST_NAMES: usize = 1_000;

/// The files below a folder.
pub struct Files {
    root: PathBuf,
}

impl Files {
    /// Those below this folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Files { root: root.into() }
    }

    /// The text of a file from an offset on.
    ///
    /// # Errors
    /// It cannot be read, in a sentence for the model.
    pub fn read(&self, path: &str, offset: u64, max_bytes: usize) -> Result<String, String> {
        let fail = |fault: std::io::Error| format!("{path} cannot be read: {}", explained(&fault));
        let mut file = File::open(self.root.join(path)).map_err(fail)?;
        let size = file.metadata().map_err(fail)?.len();
        if offset > size {
            return Err(format!("{path} has only {size} bytes"));
        }
        file.seek(SeekFrom::Start(offset)).map_err(fail)?;
        let mut bytes = Vec::new();
        file.take(max_bytes as u64).read_to_end(&mut bytes).map_err(fail)?;
        let end = offset + bytes.len() as u64;
        let text = text_of(&bytes, end < size).ok_or_else(|| format!("{path} is no text; it has {size} bytes"))?;
        let end = offset + text.len() as u64;
        match end < size {
            true => Ok(format!("{text}\n[cut: these are bytes {offset} to {end} of {size}; read on with offset {end}]")),
            false => Ok(text.to_owned()),
        }
    }

    /// Writes a whole file, and the folders that it is in. It appears whole or not at all.
    ///
    /// # Errors
    /// It cannot be written, in a sentence for the model.
    pub fn write(&self, path: &str, content: &str) -> Result<String, String> {
        let fail = |fault: std::io::Error| format!("{path} cannot be written: {}", explained(&fault));
        let target = self.root.join(path);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(fail)?;
        }
        let part = part_of(&target);
        fs::write(&part, content).and_then(|()| fs::rename(&part, &target)).map_err(|fault| {
            // The part is of no use to anybody; that it stays is not what went wrong.
            let _ = fs::remove_file(&part);
            fail(fault)
        })?;
        Ok(format!("wrote {} bytes to {path}", content.len()))
    }

    /// The names in a folder, in order.
    ///
    /// # Errors
    /// It cannot be listed, in a sentence for the model.
    pub fn list(&self, path: &str, max_bytes: usize) -> Result<String, String> {
        let fail = |fault: std::io::Error| format!("{path} cannot be listed: {}", explained(&fault));
        let mut lines = Vec::new();
        for entry in fs::read_dir(self.root.join(path)).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // A file that went away since is none.
            let Ok(meta) = entry.metadata() else { continue };
            lines.push(if meta.is_dir() { format!("{name}/") } else { format!("{name} {}", meta.len()) });
        }
        lines.sort();
        if lines.is_empty() {
            return Ok("[empty]".to_owned());
        }
        let (mut listing, mut shown) = (String::new(), 0);
        for line in lines.iter().take(MOST_NAMES).take_while(|line| listing_fits(&mut shown, line, max_bytes)) {
            listing.push_str(line);
            listing.push('\n');
        }
        let left = lines.len() - listing.lines().count();
        if left > 0 {
            listing.push_str(&format!("[cut: {left} more]\n"));
        }
        Ok(listing)
    }
}

/// Where a file is written before it takes its place.
fn part_of(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.part"))
}

fn listing_fits(shown: &mut usize, line: &str, max_bytes: usize) -> bool {
    *shown += line.len() + 1;
    *shown <= max_bytes
}

/// Bytes as text; where they were cut, up to the last whole character.
fn text_of(bytes: &[u8], is_cut: bool) -> Option<&str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(fault) if is_cut && fault.error_len().is_none() && fault.valid_up_to() > 0 => {
            std::str::from_utf8(&bytes[..fault.valid_up_to()]).ok()
        }
        Err(_) => None,
    }
}

fn explained(fault: &std::io::Error) -> String {
    match fault.kind() {
        ErrorKind::NotFound => "there is no such file".to_owned(),
        ErrorKind::IsADirectory => "it is a folder".to_owned(),
        ErrorKind::NotADirectory => "a part of its path is a file".to_owned(),
        _ => fault.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that goes away with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> (Folder, Files) {
            let folder = std::env::temp_dir().join(format!("assistant-files-{}-{name}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            (Folder(folder.clone()), Files::new(folder))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn what_is_written_is_read_and_listed() {
        let (folder, files) = Folder::new("written");
        assert_eq!(files.write("notes/a.md", "one"), Ok("wrote 3 bytes to notes/a.md".to_owned()));
        assert_eq!(files.write("notes/a.md", "two!"), Ok("wrote 4 bytes to notes/a.md".to_owned()));
        assert_eq!(files.read("notes/a.md", 0, 100), Ok("two!".to_owned()));
        assert_eq!((files.list(".", 100), files.list("notes", 100)), (Ok("notes/\n".to_owned()), Ok("a.md 4\n".to_owned())));
        assert_eq!(fs::read_dir(folder.0.join("notes")).unwrap().count(), 1, "nothing is left of the writing");
    }

    #[test]
    fn long_files_are_read_in_pieces_at_whole_characters() {
        let (_folder, files) = Folder::new("long");
        files.write("a", "1\u{e4}\u{e4}34").unwrap();
        assert_eq!(files.read("a", 0, 4), Ok("1\u{e4}\n[cut: these are bytes 0 to 3 of 7; read on with offset 3]".to_owned()));
        assert_eq!(files.read("a", 3, 4), Ok("\u{e4}34".to_owned()));
        assert!(files.read("a", 8, 4).unwrap_err().contains("only 7 bytes"));
    }

    #[test]
    fn long_listings_say_what_is_missing() {
        let (_folder, files) = Folder::new("listing");
        for name in ["a", "b", "c"] {
            files.write(name, "").unwrap();
        }
        assert_eq!(files.list(".", 8), Ok("a 0\nb 0\n[cut: 1 more]\n".to_owned()));
    }

    #[test]
    fn faults_are_sentences() {
        let (folder, files) = Folder::new("faults");
        fs::write(folder.0.join("binary"), [0xff, 0xfe]).unwrap();
        assert!(files.read("binary", 0, 100).unwrap_err().contains("no text"));
        assert!(files.read("missing", 0, 100).unwrap_err().contains("no such file"));
        assert!(files.write("binary/x", "").is_err());
        assert!(files.list("binary", 100).is_err());
        fs::create_dir(folder.0.join("folder")).unwrap();
        assert!(files.write("folder", "x").is_err());
        assert_eq!(files.list(".", 100), Ok("binary 2\nfolder/\n".to_owned()));
    }
}
