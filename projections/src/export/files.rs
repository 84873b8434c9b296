//! The files of exports, in an object store: a local folder, or a bucket.
//!
//! A file has its name only when it is complete, and no file is changed after that. Its name says when it expires, so that the
//! files that can be deleted are found without anything else.

use std::fmt;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use event_schemas::export::ExportFormat;
use event_schemas::ids::{JobId, Tenant};
use event_schemas::time::Timestamp;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, WriteMultipart};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{ExportError, extension};

/// The bytes of a part of a file that is written. S3 takes 10,000 parts, and none but the last below 5 MiB.
const PART_BYTES: usize = 8 * 1024 * 1024;
/// The parts that are sent at once.
const PARTS_AT_ONCE: usize = 2;

/// The namespace of the owners of files.
const NAMESPACE: Uuid = Uuid::from_u128(0x5c3e_0f7a_92d4_5b1e_8a66_7d0c_41b8_93f2);
/// The most files that are kept of a tenant: the ones written last.
const KEPT_MAX: usize = 100;

/// The name of a file: each attempt of a job has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileName {
    /// Derived from the tenant, whose name may contain letters that a store does not take.
    pub owner: Uuid,
    /// In whole seconds, rounded up.
    pub expires_at: Timestamp,
    pub job_id: JobId,
    /// Another one for each attempt of the job.
    pub file_id: Uuid,
    pub format: ExportFormat,
}

const FORMATS: [ExportFormat; 4] =
    [ExportFormat::Json, ExportFormat::Numpy, ExportFormat::Faiss, ExportFormat::Qdrant];
const SECOND: i64 = 1_000_000;
const UUID_CHARS: usize = 36;

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, expires_at, job_id, file_id, format } = self;
        let seconds = (expires_at.micros() + SECOND - 1) / SECOND;
        write!(f, "{owner}-{job_id}-{file_id}-{seconds}.{}", extension(*format))
    }
}

/// The text is not the name of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not the name of an exported file")]
pub struct InvalidName;

impl FromStr for FileName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let parse = || {
            let (stem, end) = text.split_once('.')?;
            let format = FORMATS.into_iter().find(|format| extension(*format) == end)?;
            let (owner, rest) = uuid(stem)?;
            let (job, rest) = uuid(rest)?;
            let (file_id, seconds) = uuid(rest)?;
            let expires_at = Timestamp::from_micros(seconds.parse::<i64>().ok()?.checked_mul(SECOND)?);
            let name = Self { owner, expires_at, job_id: JobId(job), file_id, format };
            (name.to_string() == text).then_some(name)
        };
        parse().ok_or(InvalidName)
    }
}

/// The UUID at the start of a name, and what follows its hyphen.
fn uuid(text: &str) -> Option<(Uuid, &str)> {
    let (uuid, rest) = text.split_at_checked(UUID_CHARS)?;
    Some((Uuid::try_parse(uuid).ok()?, rest.strip_prefix('-')?))
}

/// The owner of a tenant's files.
pub fn owner(tenant: &Tenant) -> Uuid {
    Uuid::new_v5(&NAMESPACE, tenant.as_str().as_bytes())
}

/// The store of the files.
#[derive(Clone, Debug)]
pub struct ExportFiles {
    store: Arc<dyn ObjectStore>,
    /// The folder in the store.
    prefix: ObjectPath,
}

/// A part of a file.
pub struct FilePart {
    /// The bytes of the whole file.
    pub size: u64,
    pub range: Range<u64>,
    pub bytes: BoxStream<'static, io::Result<Bytes>>,
}

impl fmt::Debug for FilePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilePart")
            .field("size", &self.size)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// Gathers what is written into parts, and hands them to the task that sends them.
#[derive(Debug)]
pub struct PartWriter {
    buffer: Vec<u8>,
    parts: mpsc::Sender<Bytes>,
    written: u64,
}

impl PartWriter {
    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let part = std::mem::replace(&mut self.buffer, Vec::with_capacity(PART_BYTES));
        let ended = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the file is not written any more");
        self.parts.blocking_send(part.into()).map_err(ended)
    }
}

impl Write for PartWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PART_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.written += taken as u64;
        if self.buffer.len() == PART_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    /// The last part is sent at the end only: no other may be small.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ExportFiles {
    /// The files in a folder, which is created if it is missing.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn in_folder(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let store = LocalFileSystem::new_with_prefix(folder).map_err(io::Error::other)?.with_fsync(true);
        Ok(Self { store: Arc::new(store), prefix: ObjectPath::default() })
    }

    /// Deletes the parts of files in a folder that an earlier process has not completed. None may be written meanwhile.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn delete_incomplete(folder: &Path) -> io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            // The store adds `#` and a number to the name of an incomplete file.
            let name = entry.file_name().into_string().unwrap_or_default();
            if name.split_once('#').is_some_and(|(name, _)| name.parse::<FileName>().is_ok()) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The files in a folder of a store, such as a bucket.
    pub fn in_store(store: Arc<dyn ObjectStore>, prefix: ObjectPath) -> Self {
        Self { store, prefix }
    }

    fn path(&self, name: FileName) -> ObjectPath {
        self.prefix.clone().join(name.to_string())
    }

    /// Writes a file, whose content a thread for blocking work produces, and returns its size in bytes.
    ///
    /// # Errors
    /// That of the producer, or of the store: then there is no file.
    pub async fn write<T: Send + 'static>(
        &self,
        name: FileName,
        produce: impl FnOnce(&mut PartWriter) -> Result<T, ExportError> + Send + 'static,
    ) -> Result<(T, u64), ExportError> {
        let (sender, mut parts) = mpsc::channel(1);
        let upload = self.store.put_multipart(&self.path(name)).await.map_err(io::Error::other)?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let producing = tokio::task::spawn_blocking(move || {
            let mut writer = PartWriter { buffer: Vec::new(), parts: sender, written: 0 };
            let produced = produce(&mut writer)?;
            writer.send()?;
            Ok::<_, ExportError>((produced, writer.written))
        });
        let sending = async {
            while let Some(part) = parts.recv().await {
                upload.wait_for_capacity(PARTS_AT_ONCE).await?;
                upload.put(part);
            }
            Ok(())
        };
        let sent: object_store::Result<()> = sending.await;
        drop(parts);
        let produced = producing.await.map_err(io::Error::other)?;
        match (sent, produced) {
            (Ok(()), Ok(produced)) => {
                upload.finish().await.map_err(io::Error::other)?;
                Ok(produced)
            }
            (Err(error), _) => {
                let _ = upload.abort().await;
                Err(io::Error::other(error).into())
            }
            (Ok(()), Err(error)) => {
                let _ = upload.abort().await;
                Err(error)
            }
        }
    }

    /// Reads a file, or a part of it; none if there is no such file.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn read(&self, name: FileName, range: Option<Range<u64>>) -> io::Result<Option<FilePart>> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        match self.store.get_opts(&self.path(name), options).await {
            Ok(found) => {
                let (size, range) = (found.meta.size, found.range.clone());
                Ok(Some(FilePart {
                    size,
                    range,
                    bytes: found.into_stream().map_err(io::Error::other).boxed(),
                }))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Deletes the files that have expired, and returns when the next one does.
    ///
    /// # Errors
    /// The store cannot be read, or a file cannot be deleted.
    pub async fn delete_expired(&self, now: Timestamp) -> io::Result<Option<Timestamp>> {
        let mut files = self.store.list(Some(&self.prefix));
        let mut next: Option<Timestamp> = None;
        while let Some(file) = files.next().await {
            let file = file.map_err(io::Error::other)?;
            let name = file.location.filename().and_then(|name| name.parse::<FileName>().ok());
            // Others put files into the folder, too.
            let Some(FileName { expires_at, .. }) = name else { continue };
            if expires_at > now {
                next = Some(next.map_or(expires_at, |next| next.min(expires_at)));
                continue;
            }
            self.delete(&file.location).await?;
            tracing::info!(file = %file.location, "deleted an expired export");
        }
        Ok(next)
    }

    /// Deletes the files of an owner that were written before the last [`KEPT_MAX`], so that a tenant cannot fill the store.
    ///
    /// # Errors
    /// As [`Self::delete_expired`].
    pub async fn keep_newest(&self, owner: Uuid) -> io::Result<()> {
        let all = self.store.list(Some(&self.prefix)).map_err(io::Error::other);
        let of_owner = |file: &ObjectMeta| {
            let name = file.location.filename().and_then(|name| name.parse::<FileName>().ok());
            name.is_some_and(|name| name.owner == owner)
        };
        let own = all.try_filter(|file| std::future::ready(of_owner(file)));
        let mut own: Vec<ObjectMeta> = own.try_collect().await?;
        own.sort_by_key(|file| std::cmp::Reverse(file.last_modified));
        for file in own.iter().skip(KEPT_MAX) {
            self.delete(&file.location).await?;
            tracing::info!(file = %file.location, "deleted an export, because its tenant has many newer ones");
        }
        Ok(())
    }

    async fn delete(&self, path: &ObjectPath) -> io::Result<()> {
        match self.store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}
