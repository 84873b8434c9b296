//! The FUSE interface of the file system.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, Session, TimeOrNow,
    WriteFlags,
};

use super::{CAPACITY_BYTES, Call, Failure, Files, PlannedFailure, ROOT};

/// All changes come through the kernel, so it may cache attributes and entries.
const TTL: Duration = Duration::from_secs(3600);
const BLOCK_BYTES: u32 = 4096;

/// A mounted file system. When it is dropped, it is unmounted and its files are lost.
pub(crate) struct Mount {
    files: Shared,
    folder: tempfile::TempDir,
    session: Option<BackgroundSession>,
}

type Shared = Arc<Mutex<Files>>;

impl Mount {
    /// Mounts a new, empty file system. The error is the reason why this machine does not allow it.
    pub(crate) fn new(seed: u64) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let files = Arc::new(Mutex::new(Files::new(seed)));
        let session = Some(mount(&files, folder.path()).map_err(|error| error.to_string())?);
        Ok(Self { files, folder, session })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap()
    }

    /// Lets every call fail until [`Self::power_on`].
    pub(crate) fn cut_power(&self) {
        self.files().powered = false;
    }

    /// Drops unsynced data and mounts the file system again, so that the kernel's caches are empty too. No file may be
    /// open.
    pub(crate) fn power_on(&mut self) {
        self.remount(Files::lose_power);
    }

    /// Plans the failure of a call.
    pub(crate) fn plan(&self, planned: PlannedFailure) {
        self.files().planned = Some(planned);
    }

    /// The number of planned failures that have occurred.
    pub(crate) fn failures_injected(&self) -> u64 {
        self.files().failures_injected
    }

    fn remount(&mut self, meanwhile: impl FnOnce(&mut Files)) {
        if let Some(session) = self.session.take() {
            match session.umount_and_join() {
                // The session's thread may see the unmount as a failure of the read that it waits in.
                Err(error) if error.kind() != std::io::ErrorKind::ConnectionAborted => panic!("{error}"),
                Ok(()) | Err(_) => {}
            }
        }
        meanwhile(&mut self.files());
        self.session = Some(mount(&self.files, self.folder.path()).unwrap());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            // A test that has failed may have left files open.
            let _ = session.umount_and_join();
        }
    }
}

fn mount(files: &Shared, at: &Path) -> std::io::Result<BackgroundSession> {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("lossy".to_owned()), MountOption::NoAtime];
    Session::new(Lossy(Arc::clone(files)), at, &config)?.spawn()
}

struct Lossy(Shared);

impl Lossy {
    /// The files, if the power is on.
    fn files(&self) -> Result<MutexGuard<'_, Files>, Errno> {
        let files = self.0.lock().unwrap();
        if files.powered { Ok(files) } else { Err(Errno::EIO) }
    }

    /// The files, for a call that changes something other than the content of a file.
    fn files_mut(&self) -> Result<MutexGuard<'_, Files>, Errno> {
        let files = self.files()?;
        if files.read_only { Err(Errno::EROFS) } else { Ok(files) }
    }
}

impl From<Failure> for Errno {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Io => Self::EIO,
            Failure::NoSpace => Self::ENOSPC,
            Failure::ReadOnly => Self::EROFS,
        }
    }
}

fn attributes(files: &Files, number: u64) -> Result<FileAttr, Errno> {
    let node = files.nodes.get(&number).ok_or(Errno::ENOENT)?;
    let size = node.live.len() as u64;
    Ok(FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(512),
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: if node.is_folder { FileType::Directory } else { FileType::RegularFile },
        perm: node.mode,
        nlink: 1,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    })
}

fn entry_key(folder: INodeNo, name: &OsStr) -> (u64, String) {
    (folder.0, name.to_string_lossy().into_owned())
}

impl Filesystem for Lossy {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.files().and_then(|files| {
            let number = files.names.get(&entry_key(parent, name)).ok_or(Errno::ENOENT)?;
            attributes(&files, *number)
        });
        match found {
            Ok(found) => reply.entry(&TTL, &found, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.files().and_then(|files| attributes(&files, ino.0)) {
            Ok(found) => reply.attr(&TTL, &found),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = self.files_mut().and_then(|mut files| {
            let node = files.nodes.get_mut(&ino.0).ok_or(Errno::ENOENT)?;
            if let Some(mode) = mode {
                node.mode = (mode & 0o7777) as u16;
            }
            if let Some(size) = size {
                node.resize(size);
            }
            attributes(&files, ino.0)
        });
        match set {
            Ok(set) => reply.attr(&TTL, &set),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let created = self.files_mut().and_then(|mut files| {
            let (folder, name) = entry_key(parent, name);
            let number = files.create(folder, &name, true, (mode & !umask & 0o7777) as u16);
            attributes(&files, number)
        });
        match created {
            Ok(created) => reply.entry(&TTL, &created, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let created = self.files_mut().and_then(|mut files| {
            let (folder, name) = entry_key(parent, name);
            let number = files.create(folder, &name, false, (mode & !umask & 0o7777) as u16);
            attributes(&files, number)
        });
        match created {
            Ok(created) => {
                reply.created(&TTL, &created, Generation(0), FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_with(reply, self.files_mut().map(|mut files| files.remove(entry_key(parent, name))));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_with(reply, self.files_mut().map(|mut files| files.remove(entry_key(parent, name))));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = (entry_key(parent, name), entry_key(newparent, newname));
        reply_with(reply, self.files_mut().map(|mut files| files.rename(from, to)));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // SQLite shares memory through a mapped file, which must stay in the kernel's cache.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.files() {
            Ok(files) => {
                let live = files.nodes.get(&ino.0).map_or(&[][..], |node| &node.live);
                let from = live.get(offset as usize..).unwrap_or_default();
                reply.data(&from[..from.len().min(size as usize)]);
            }
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.files().and_then(|mut files| {
            let failure = files.take_failure(Call::Write, ino.0);
            let kept = match failure {
                // A failed write may be partial.
                Some(Failure::Io) => files.rng.below(data.len() as u64 + 1) as usize,
                Some(Failure::NoSpace | Failure::ReadOnly) => 0,
                None => data.len(),
            };
            let node = files.nodes.get_mut(&ino.0).ok_or(Errno::ENOENT)?;
            if kept > 0 {
                node.write(offset, &data[..kept]);
            }
            failure.map_or(Ok(()), |failure| Err(failure.into()))
        });
        match written {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        _: i32,
        reply: ReplyEmpty,
    ) {
        let allocated = self.files_mut().and_then(|mut files| {
            let node = files.nodes.get_mut(&ino.0).ok_or(Errno::ENOENT)?;
            if offset + length > node.live.len() as u64 {
                node.resize(offset + length);
            }
            Ok(true)
        });
        reply_with(reply, allocated);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let synced = self.files().and_then(|mut files| {
            if let Some(failure) = files.take_failure(Call::Sync, ino.0) {
                return Err(failure.into());
            }
            files.nodes.get_mut(&ino.0).ok_or(Errno::ENOENT)?.sync();
            Ok(true)
        });
        reply_with(reply, synced);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let synced = self.files().map(|mut files| {
            files.sync_names(ino.0);
            true
        });
        reply_with(reply, synced);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let files = match self.files() {
            Ok(files) => files,
            Err(error) => return reply.error(error),
        };
        let own = [(".".to_owned(), ino.0), ("..".to_owned(), ROOT)];
        let within = files.names.iter().filter(|((folder, _), _)| *folder == ino.0);
        let entries = own.into_iter().chain(within.map(|((_, name), number)| (name.clone(), *number)));
        for (n, (name, number)) in entries.enumerate().skip(offset as usize) {
            let is_folder = files.nodes.get(&number).is_none_or(|node| node.is_folder);
            let kind = if is_folder { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(number), n as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let used: usize = self.0.lock().unwrap().nodes.values().map(|node| node.live.len()).sum();
        let free = CAPACITY_BYTES.saturating_sub(used as u64) / u64::from(BLOCK_BYTES);
        let all = CAPACITY_BYTES / u64::from(BLOCK_BYTES);
        reply.statfs(all, free, free, 1 << 20, 1 << 20, BLOCK_BYTES, 255, BLOCK_BYTES);
    }
}

fn reply_with(reply: ReplyEmpty, done: Result<bool, Errno>) {
    match done {
        Ok(true) => reply.ok(),
        Ok(false) => reply.error(Errno::ENOENT),
        Err(error) => reply.error(error),
    }
}
