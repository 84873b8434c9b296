//! The only access to the file system: a folder of flat files, real or simulated.
//!
//! Every disk call of the log is here, so that a simulated disk can fail, fill up or lose its power at each single call.

use std::fs::TryLockError;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(any(test, feature = "simulation"))]
pub(super) mod simulated;

#[cfg(any(test, feature = "simulation"))]
use simulated::{SimDisk, SimFile};

use super::head_file::HEAD_FILE;

/// A failed disk call.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {file}: {source}")]
pub struct Fault {
    pub action: &'static str,
    pub file: String,
    pub source: io::Error,
}

impl Fault {
    /// Whether the disk is full, which is a temporary fault. All other faults are final.
    pub(super) fn is_full(&self) -> bool {
        matches!(self.source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
    }

    /// Turns the fault into a final one, even if the disk is only full.
    pub(super) fn into_final(self) -> Self {
        Self { source: io::Error::other(self.source), ..self }
    }
}

/// The folder of a log. Clones refer to the same folder.
#[derive(Clone, Debug)]
pub(super) enum Disk {
    Real(PathBuf),
    #[cfg(any(test, feature = "simulation"))]
    Simulated(SimDisk),
}

/// An open file. Clones refer to the same file.
#[derive(Clone, Debug)]
pub(super) enum DiskFile {
    Real {
        file: Arc<std::fs::File>,
        path: Arc<Path>,
    },
    #[cfg(any(test, feature = "simulation"))]
    Simulated(SimFile),
}

/// The reason why the folder was not locked.
#[derive(Debug)]
pub(super) enum LockFault {
    /// Another process holds the lock, with this id if it is known.
    Held(Option<u32>),
    Fault(Fault),
}

/// The exclusive lock of a folder. It is released when it is dropped or the process ends.
#[derive(Debug)]
pub(super) struct Lock(
    #[expect(dead_code, reason = "the lock lasts as long as its file is open")] Option<std::fs::File>,
);

const LOCK_FILE: &str = "lock";

impl Disk {
    /// The folder at `path`, which is created if it does not exist.
    pub(super) fn folder(path: &Path) -> Result<Self, Fault> {
        make_folder(path).map_err(|source| Fault {
            action: "create",
            file: path.display().to_string(),
            source,
        })?;
        Ok(Self::Real(path.to_owned()))
    }

    /// Creates the folder if it does not exist.
    pub(super) fn create_folder(&self) -> Result<(), Fault> {
        match self {
            Self::Real(folder) => Self::folder(folder).map(drop),
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(_) => Ok(()),
        }
    }

    /// Removes the folder and its lock file if it contains nothing else.
    pub(super) fn remove_folder(&self) -> Result<(), Fault> {
        match self {
            Self::Real(folder) => {
                let named = |source| Fault { action: "remove", file: folder.display().to_string(), source };
                if self.list()?.is_empty() {
                    std::fs::remove_file(folder.join(LOCK_FILE)).map_err(named)?;
                    std::fs::remove_dir(folder).map_err(named)?;
                }
                Ok(())
            }
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(_) => Ok(()),
        }
    }

    pub(super) fn exists(&self) -> bool {
        match self {
            Self::Real(folder) => folder.exists(),
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(_) => true,
        }
    }

    /// The path, for messages.
    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::Real(folder) => folder.clone(),
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(_) => PathBuf::from("simulated"),
        }
    }

    pub(super) fn lock(&self) -> Result<Lock, LockFault> {
        match self {
            Self::Real(folder) => lock(&folder.join(LOCK_FILE)).map(|file| Lock(Some(file))),
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(_) => Ok(Lock(None)),
        }
    }

    /// As [`Self::lock`], but writes nothing. If no process has ever locked the folder, there is nothing to lock.
    pub(super) fn lock_to_read(&self) -> Result<Lock, LockFault> {
        match self {
            Self::Real(folder) => {
                let path = folder.join(LOCK_FILE);
                match std::fs::File::open(&path) {
                    Ok(file) => try_lock(&file, &path).map(|()| Lock(Some(file))),
                    Err(source) if source.kind() == ErrorKind::NotFound => Ok(Lock(None)),
                    Err(source) => Err(LockFault::Fault(Fault {
                        action: "open",
                        file: path.display().to_string(),
                        source,
                    })),
                }
            }
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(_) => Ok(Lock(None)),
        }
    }

    /// The names of all files except the lock file and the head file, sorted.
    pub(super) fn list(&self) -> Result<Vec<String>, Fault> {
        match self {
            Self::Real(folder) => {
                let named = |source| Fault { action: "list", file: folder.display().to_string(), source };
                let mut names = Vec::new();
                for entry in std::fs::read_dir(folder).map_err(named)? {
                    names.push(entry.map_err(named)?.file_name().to_string_lossy().into_owned());
                }
                names.retain(|name| name != LOCK_FILE && !name.starts_with(HEAD_FILE));
                names.sort_unstable();
                Ok(names)
            }
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(disk) => {
                let mut names = disk.list()?;
                names.retain(|name| !name.starts_with(HEAD_FILE));
                Ok(names)
            }
        }
    }

    pub(super) fn open(&self, name: &str) -> Result<DiskFile, Fault> {
        match self {
            Self::Real(folder) => {
                let path = folder.join(name);
                let file = std::fs::File::options().read(true).write(true).open(&path);
                real_file("open", path, file)
            }
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(disk) => disk.open(name).map(DiskFile::Simulated),
        }
    }

    /// As [`Self::open`], but read-only.
    pub(super) fn open_to_read(&self, name: &str) -> Result<DiskFile, Fault> {
        match self {
            Self::Real(folder) => {
                let path = folder.join(name);
                let file = std::fs::File::open(&path);
                real_file("open", path, file)
            }
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(disk) => disk.open(name).map(DiskFile::Simulated),
        }
    }

    /// Creates a file, or truncates an existing one.
    pub(super) fn create(&self, name: &str) -> Result<DiskFile, Fault> {
        match self {
            Self::Real(folder) => {
                let path = folder.join(name);
                let file =
                    std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path);
                real_file("create", path, file)
            }
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(disk) => disk.create(name).map(DiskFile::Simulated),
        }
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), Fault> {
        match self {
            Self::Real(folder) => std::fs::rename(folder.join(from), folder.join(to))
                .map_err(|source| Fault { action: "rename", file: from.to_owned(), source }),
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(disk) => disk.rename(from, to),
        }
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), Fault> {
        match self {
            Self::Real(folder) => std::fs::remove_file(folder.join(name)).map_err(|source| Fault {
                action: "remove",
                file: name.to_owned(),
                source,
            }),
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(disk) => disk.remove(name),
        }
    }

    /// Makes created, renamed and removed file names durable.
    pub(super) fn sync(&self) -> Result<(), Fault> {
        match self {
            Self::Real(folder) => sync_folder(folder),
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(disk) => disk.sync(""),
        }
    }

    /// Creates a folder within this one, for files that are not part of the log. Their names are `folder/name`.
    pub(super) fn create_folder_within(&self, name: &str) -> Result<(), Fault> {
        match self {
            Self::Real(folder) => match std::fs::create_dir(folder.join(name)) {
                Err(source) if source.kind() == ErrorKind::AlreadyExists => Ok(()),
                created => {
                    created.map_err(|source| Fault { action: "create", file: name.to_owned(), source })
                }
            },
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(disk) => disk.create_folder(name),
        }
    }

    /// As [`Self::sync`], for a folder within this one.
    pub(super) fn sync_within(&self, name: &str) -> Result<(), Fault> {
        match self {
            Self::Real(folder) => sync_folder(&folder.join(name)),
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(disk) => disk.sync(name),
        }
    }

    /// Whether a file of this name exists.
    pub(super) fn has(&self, name: &str) -> Result<bool, Fault> {
        match self.open_to_read(name) {
            Ok(_) => Ok(true),
            Err(fault) if fault.source.kind() == ErrorKind::NotFound => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// The free space on the disk, in bytes.
    pub(super) fn free_bytes(&self) -> Result<u64, Fault> {
        match self {
            Self::Real(folder) => rustix::fs::statvfs(folder)
                .map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
                .map_err(|errno| Fault {
                    action: "get the free space of",
                    file: folder.display().to_string(),
                    source: errno.into(),
                }),
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(disk) => disk.free_bytes(),
        }
    }

    /// Reads a small file; `None` if it does not exist.
    pub(super) fn read_small(&self, name: &str) -> Result<Option<Vec<u8>>, Fault> {
        let file = match self.open_to_read(name) {
            Ok(file) => file,
            Err(fault) if fault.source.kind() == ErrorKind::NotFound => return Ok(None),
            Err(fault) => return Err(fault),
        };
        let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(Some(bytes))
    }

    /// Writes a file atomically: under its name, either all of it is visible or the previous state is.
    pub(super) fn write_atomically(&self, name: &str, bytes: &[u8]) -> Result<(), Fault> {
        let temporary = format!("{name}.tmp");
        let file = self.create(&temporary)?;
        file.write_all_at(bytes, 0)?;
        file.sync_all()?;
        self.rename(&temporary, name)?;
        self.sync()
    }
}

impl DiskFile {
    fn fault(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Fault {
        move |source| Fault { action, file: path.display().to_string(), source }
    }

    pub(super) fn len(&self) -> Result<u64, Fault> {
        match self {
            Self::Real { file, path } => {
                file.metadata().map(|data| data.len()).map_err(Self::fault(path, "get the length of"))
            }
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(file) => file.len(),
        }
    }

    pub(super) fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), Fault> {
        match self {
            Self::Real { file, path } => file.read_exact_at(bytes, offset).map_err(Self::fault(path, "read")),
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(file) => file.read_exact_at(bytes, offset),
        }
    }

    pub(super) fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<(), Fault> {
        match self {
            Self::Real { file, path } => file.write_all_at(bytes, offset).map_err(Self::fault(path, "write")),
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(file) => file.write_all_at(bytes, offset),
        }
    }

    /// Makes the written bytes and the length durable.
    pub(super) fn sync_data(&self) -> Result<(), Fault> {
        match self {
            Self::Real { file, path } => file.sync_data().map_err(Self::fault(path, "sync")),
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(file) => file.sync(),
        }
    }

    pub(super) fn sync_all(&self) -> Result<(), Fault> {
        match self {
            Self::Real { file, path } => file.sync_all().map_err(Self::fault(path, "sync")),
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(file) => file.sync(),
        }
    }

    /// Allocates contiguous space up to `len` bytes, if the file system supports it.
    pub(super) fn allocate(&self, len: u64) -> Result<(), Fault> {
        match self {
            Self::Real { file, path } => {
                match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len) {
                    // On file systems without support, the zeros that are written next allocate the space.
                    Ok(()) | Err(rustix::io::Errno::NOTSUP) => Ok(()),
                    Err(errno) => Err(Self::fault(path, "allocate space for")(errno.into())),
                }
            }
            #[cfg(any(test, feature = "simulation"))]
            Self::Simulated(file) => file.allocate(len),
        }
    }
}

/// Creates a folder and its parents, and makes their names durable.
///
/// # Errors
/// The error of the file system.
pub fn make_folder(path: &Path) -> io::Result<()> {
    let parent_of = |path: &Path| match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Some(PathBuf::from(".")),
        parent => parent.map(Path::to_owned),
    };
    let sync = |folder: &Path| std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    let missing: Vec<&Path> =
        path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.is_dir()).collect();
    std::fs::create_dir_all(path)?;
    // An existing folder may have been created by a process that crashed before it synced its name.
    for folder in missing.into_iter().chain([path]).rev() {
        if let Some(parent) = parent_of(folder) {
            sync(&parent)?;
        }
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> Result<(), Fault> {
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| Fault {
        action: "sync",
        file: folder.display().to_string(),
        source,
    })
}

fn real_file(
    action: &'static str,
    path: PathBuf,
    file: io::Result<std::fs::File>,
) -> Result<DiskFile, Fault> {
    match file {
        Ok(file) => Ok(DiskFile::Real { file: Arc::new(file), path: path.into() }),
        Err(source) => Err(Fault { action, file: path.display().to_string(), source }),
    }
}

fn lock(path: &Path) -> Result<std::fs::File, LockFault> {
    let fault =
        |action| move |source| LockFault::Fault(Fault { action, file: path.display().to_string(), source });
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(fault("open"))?;
    try_lock(&file, path)?;
    // The process id is only for the message of another process, so it need not be durable.
    file.set_len(0).map_err(fault("write"))?;
    file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0).map_err(fault("write"))?;
    Ok(file)
}

fn try_lock(file: &std::fs::File, path: &Path) -> Result<(), LockFault> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let holder = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
            Err(LockFault::Held(holder))
        }
        Err(TryLockError::Error(source)) => {
            Err(LockFault::Fault(Fault { action: "lock", file: path.display().to_string(), source }))
        }
    }
}
