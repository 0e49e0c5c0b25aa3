//! `wasi:filesystem` with a hard quota, in front of wasmtime-wasi's, which resolves every path below the workspace.
//!
//! Invariant: each call that can make the workspace grow is charged before it is passed on, and refused with
//! `insufficient-space` where there is no room; none that changes anything is passed on after the attempt may no longer act.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rustix::io::Errno;
use wasmtime::component::{HasData, Resource, ResourceTable};
use wasmtime_wasi::filesystem::{Descriptor, Dir, WasiFilesystemCtx, WasiFilesystemCtxView};
use wasmtime_wasi::p2::bindings::filesystem::preopens;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    self, Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, DirectoryEntryStream, ErrorCode, Filesize, Host,
    HostDescriptor, HostDirectoryEntryStream, MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsError, FsResult};

use super::disk::{Disk, OpenStream};
use super::file_streams::{At, FileReader, FileWriter, end, fault_in};
use super::ledger::{Growth, Removed};
use crate::sandbox::fault::Fault;
use crate::sandbox::state::State;

/// Names [`FilesView`] for the linker.
pub(crate) struct Files;

impl HasData for Files {
    type Data<'a> = FilesView<'a>;
}

/// The file system of one store.
pub(crate) struct FilesView<'a> {
    ctx: &'a mut WasiFilesystemCtx,
    table: &'a mut ResourceTable,
    disk: &'a Arc<Disk>,
}

type Fd = Resource<Descriptor>;

fn trap(fault: Fault) -> FsError {
    FsError::trap(fault)
}

fn again(fd: &Fd) -> Fd {
    Resource::new_borrow(fd.rep())
}

impl<'a> FilesView<'a> {
    /// The view of a store's state.
    pub(crate) fn of(state: &'a mut State) -> Self {
        FilesView { ctx: state.wasi.filesystem(), table: &mut state.table, disk: &state.disk }
    }

    /// wasmtime-wasi's own host, to which everything is passed on in the end.
    fn inner(&mut self) -> WasiFilesystemCtxView<'_> {
        WasiFilesystemCtxView { ctx: self.ctx, table: self.table }
    }

    /// Counts a call, then passes on.
    fn call(&mut self) -> FsResult<WasiFilesystemCtxView<'_>> {
        self.disk.call().map_err(trap)?;
        Ok(self.inner())
    }

    /// Counts a call that changes something, then passes on.
    fn act(&mut self) -> FsResult<WasiFilesystemCtxView<'_>> {
        self.disk.act().map_err(trap)?;
        Ok(self.inner())
    }

    fn file(&self, fd: &Fd) -> FsResult<Arc<File>> {
        match self.table.get(fd)? {
            Descriptor::File(file) => Ok(Arc::clone(&file.file)),
            Descriptor::Dir(_) => Err(ErrorCode::BadDescriptor.into()),
        }
    }

    fn dir(&self, fd: &Fd) -> FsResult<Dir> {
        match self.table.get(fd)? {
            Descriptor::Dir(dir) => Ok(dir.clone()),
            Descriptor::File(_) => Err(ErrorCode::NotDirectory.into()),
        }
    }

    fn stream(&self) -> FsResult<OpenStream> {
        self.disk.stream().ok_or_else(|| ErrorCode::InsufficientMemory.into())
    }

    /// A name as it is now, or none where there is nothing.
    async fn look(&mut self, fd: &Fd, path: &str) -> Option<DescriptorStat> {
        self.inner().stat_at(again(fd), PathFlags::empty(), path.to_owned()).await.ok()
    }

    /// Opens what may have to be created or cut, so that a new name is charged before it is made.
    async fn open_changing(
        &mut self,
        fd: &Fd,
        path_flags: PathFlags,
        path: String,
        oflags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Fd> {
        let plain = oflags & !OpenFlags::TRUNCATE;
        if plain.contains(OpenFlags::CREATE | OpenFlags::EXCLUSIVE) {
            let name = self.disk.add_name(0)?;
            let opened = self.inner().open_at(again(fd), path_flags, path, plain, flags).await?;
            name.keep();
            return Ok(opened);
        }
        let existing = self.inner().open_at(again(fd), path_flags, path.clone(), plain & !OpenFlags::CREATE, flags).await;
        let opened = match existing {
            Err(error) if oflags.contains(OpenFlags::CREATE) && matches!(error.downcast_ref(), Some(ErrorCode::NoEntry)) => {
                let name = self.disk.add_name(0)?;
                let opened = self.inner().open_at(again(fd), path_flags, path, plain, flags).await?;
                name.keep();
                return Ok(opened);
            }
            other => other?,
        };
        if oflags.contains(OpenFlags::TRUNCATE)
            && let Err(error) = self.resize(&opened, 0).await
        {
            self.table.delete(opened)?;
            return Err(error);
        }
        Ok(opened)
    }

    async fn resize(&mut self, fd: &Fd, size: Filesize) -> FsResult<()> {
        let file = self.file(fd)?;
        let ticket = self.disk.grow(&file, Growth::To(end(size, 0)?))?;
        let result = self.inner().set_size(again(fd), size).await;
        drop(ticket);
        result
    }

    /// Credits for what a name stood for before it was removed or replaced.
    fn credit(&self, before: &DescriptorStat) {
        let regular = before.type_ == DescriptorType::RegularFile;
        let (bytes, links) = match before.type_ {
            DescriptorType::Directory => (0, 1),
            _ => (before.size, before.link_count),
        };
        self.disk.removed(Removed { bytes, links, regular });
    }
}

impl preopens::Host for FilesView<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Fd, String)>> {
        self.disk.call()?;
        let root = self.table.push(Descriptor::Dir(self.disk.root()))?;
        Ok(vec![(root, "/".to_owned())])
    }
}

impl Host for FilesView<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }

    fn filesystem_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        types::Host::filesystem_error_code(&mut self.inner(), error)
    }
}

impl HostDescriptor for FilesView<'_> {
    async fn advise(&mut self, fd: Fd, offset: Filesize, length: Filesize, advice: Advice) -> FsResult<()> {
        self.call()?.advise(fd, offset, length, advice).await
    }

    async fn sync_data(&mut self, fd: Fd) -> FsResult<()> {
        self.call()?.sync_data(fd).await
    }

    async fn sync(&mut self, fd: Fd) -> FsResult<()> {
        self.call()?.sync(fd).await
    }

    async fn get_flags(&mut self, fd: Fd) -> FsResult<DescriptorFlags> {
        self.call()?.get_flags(fd).await
    }

    async fn get_type(&mut self, fd: Fd) -> FsResult<DescriptorType> {
        self.call()?.get_type(fd).await
    }

    async fn set_size(&mut self, fd: Fd, size: Filesize) -> FsResult<()> {
        self.act()?;
        self.resize(&fd, size).await
    }

    async fn set_times(&mut self, fd: Fd, accessed: NewTimestamp, modified: NewTimestamp) -> FsResult<()> {
        self.act()?.set_times(fd, accessed, modified).await
    }

    async fn set_times_at(
        &mut self,
        fd: Fd,
        path_flags: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        self.act()?.set_times_at(fd, path_flags, path, accessed, modified).await
    }

    async fn read(&mut self, fd: Fd, length: Filesize, offset: Filesize) -> FsResult<(Vec<u8>, bool)> {
        self.call()?.read(fd, length, offset).await
    }

    async fn write(&mut self, fd: Fd, bytes: Vec<u8>, offset: Filesize) -> FsResult<Filesize> {
        self.act()?;
        let (file, length) = (self.file(&fd)?, bytes.len() as u64);
        let ticket = self.disk.grow(&file, Growth::To(end(offset, length)?))?;
        let disk = Arc::clone(self.disk);
        let writing = self.disk.job(move || {
            disk.may_act()?;
            file.write_all_at(&bytes, offset)?;
            drop(ticket);
            disk.wrote(length);
            Ok(length)
        });
        writing.await.map_err(|error| fault_in(&error).map_or_else(|| error.into(), trap))
    }

    async fn read_directory(&mut self, fd: Fd) -> FsResult<Resource<DirectoryEntryStream>> {
        self.call()?;
        let (dir, room) = (self.dir(&fd)?.dir, self.disk.listing_room());
        let size = self.disk.job(move || listing_size(&dir, room)).await?;
        let listing = self.inner().read_directory(fd).await?;
        self.disk.listing_opened(listing.rep(), size);
        Ok(listing)
    }

    async fn create_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        self.act()?;
        let name = self.disk.add_name(0)?;
        self.inner().create_directory_at(fd, path).await?;
        name.keep();
        Ok(())
    }

    async fn stat(&mut self, fd: Fd) -> FsResult<DescriptorStat> {
        self.call()?.stat(fd).await
    }

    async fn stat_at(&mut self, fd: Fd, path_flags: PathFlags, path: String) -> FsResult<DescriptorStat> {
        self.call()?.stat_at(fd, path_flags, path).await
    }

    async fn link_at(&mut self, fd: Fd, old_flags: PathFlags, old_path: String, new_fd: Fd, new_path: String) -> FsResult<()> {
        self.act()?;
        let name = self.disk.add_name(0)?;
        self.inner().link_at(fd, old_flags, old_path, new_fd, new_path).await?;
        name.keep();
        Ok(())
    }

    async fn open_at(&mut self, fd: Fd, path_flags: PathFlags, path: String, oflags: OpenFlags, flags: DescriptorFlags) -> FsResult<Fd> {
        let changes = OpenFlags::CREATE | OpenFlags::TRUNCATE;
        let opened = if oflags.intersects(changes) {
            self.act()?;
            if oflags.contains(OpenFlags::DIRECTORY) {
                return Err(ErrorCode::Invalid.into());
            }
            // As wasmtime-wasi opens them: for writing, and for reading too where the guest did not say which.
            let wanted =
                if flags.contains(DescriptorFlags::WRITE) { flags } else { flags | DescriptorFlags::READ | DescriptorFlags::WRITE };
            self.open_changing(&fd, path_flags, path, oflags, wanted).await?
        } else {
            self.call()?.open_at(fd, path_flags, path, oflags, flags).await?
        };
        if let Ok(file) = self.file(&opened) {
            self.disk.opened(&file)?;
        }
        Ok(opened)
    }

    fn drop(&mut self, fd: Fd) -> wasmtime::Result<()> {
        HostDescriptor::drop(&mut self.inner(), fd)
    }

    async fn readlink_at(&mut self, fd: Fd, path: String) -> FsResult<String> {
        self.call()?.readlink_at(fd, path).await
    }

    async fn remove_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        self.act()?.remove_directory_at(fd, path).await?;
        self.disk.removed(Removed { bytes: 0, links: 1, regular: false });
        Ok(())
    }

    async fn rename_at(&mut self, fd: Fd, old_path: String, new_fd: Fd, new_path: String) -> FsResult<()> {
        self.act()?;
        let replaced = self.look(&new_fd, &new_path).await;
        self.inner().rename_at(again(&fd), old_path.clone(), new_fd, new_path).await?;
        // A rename onto another name of the same file does nothing at all, and both names stay.
        if let Some(replaced) = replaced
            && self.look(&fd, &old_path).await.is_none()
        {
            self.credit(&replaced);
        }
        Ok(())
    }

    async fn symlink_at(&mut self, fd: Fd, target: String, path: String) -> FsResult<()> {
        self.act()?;
        let name = self.disk.add_name(target.len() as u64)?;
        self.inner().symlink_at(fd, target, path).await?;
        name.keep();
        Ok(())
    }

    async fn unlink_file_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        self.act()?;
        let before = self.look(&fd, &path).await;
        self.inner().unlink_file_at(fd, path).await?;
        if let Some(before) = before {
            self.credit(&before);
        }
        Ok(())
    }

    fn read_via_stream(&mut self, fd: Fd, offset: Filesize) -> FsResult<Resource<DynInputStream>> {
        self.call()?;
        let file = match self.table.get(&fd)? {
            Descriptor::File(file) => Arc::clone(&file.file),
            Descriptor::Dir(_) => return Err(ErrorCode::IsDirectory.into()),
        };
        let reader: DynInputStream = Box::new(FileReader::new(Arc::clone(self.disk), file, offset, self.stream()?));
        Ok(self.table.push(reader)?)
    }

    fn write_via_stream(&mut self, fd: Fd, offset: Filesize) -> FsResult<Resource<DynOutputStream>> {
        self.act()?;
        let writer: DynOutputStream =
            Box::new(FileWriter::new(Arc::clone(self.disk), self.file(&fd)?, At::Position(offset), self.stream()?));
        Ok(self.table.push(writer)?)
    }

    fn append_via_stream(&mut self, fd: Fd) -> FsResult<Resource<DynOutputStream>> {
        self.act()?;
        let writer: DynOutputStream = Box::new(FileWriter::new(Arc::clone(self.disk), self.file(&fd)?, At::End, self.stream()?));
        Ok(self.table.push(writer)?)
    }

    async fn is_same_object(&mut self, a: Fd, b: Fd) -> wasmtime::Result<bool> {
        self.disk.call()?;
        self.inner().is_same_object(a, b).await
    }

    async fn metadata_hash(&mut self, fd: Fd) -> FsResult<MetadataHashValue> {
        self.call()?.metadata_hash(fd).await
    }

    async fn metadata_hash_at(&mut self, fd: Fd, path_flags: PathFlags, path: String) -> FsResult<MetadataHashValue> {
        self.call()?.metadata_hash_at(fd, path_flags, path).await
    }
}

impl HostDirectoryEntryStream for FilesView<'_> {
    async fn read_directory_entry(&mut self, stream: Resource<DirectoryEntryStream>) -> FsResult<Option<DirectoryEntry>> {
        self.call()?.read_directory_entry(stream).await
    }

    fn drop(&mut self, stream: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        self.disk.listing_closed(stream.rep());
        HostDirectoryEntryStream::drop(&mut self.inner(), stream)
    }
}

/// What the entries of a folder will take of the host's memory: wasmtime-wasi reads all of them at once.
///
/// # Errors
/// `ENOMEM` when that is more than there is room for.
fn listing_size(dir: &File, room: u64) -> io::Result<u64> {
    const ENTRY_BYTES: u64 = 64;
    let mut size = ENTRY_BYTES;
    for entry in rustix::fs::Dir::read_from(dir)? {
        size = size.saturating_add(ENTRY_BYTES).saturating_add(entry?.file_name().to_bytes().len() as u64);
        if size > room {
            return Err(Errno::NOMEM.into());
        }
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_that_would_take_too_much_memory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in 0..20 {
            File::create(dir.path().join(format!("{name:0200}"))).unwrap();
        }
        let folder = File::open(dir.path()).unwrap();
        let size = listing_size(&folder, u64::MAX).unwrap();
        assert!((20 * 200..20 * 400).contains(&size), "{size}");
        assert!(listing_size(&folder, size).is_ok());
        assert_eq!(listing_size(&folder, size - 1).unwrap_err().raw_os_error(), Some(Errno::NOMEM.raw_os_error()));
    }
}
