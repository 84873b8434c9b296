//! The files of a graph: its bytes, and a manifest that says what they contain.
//!
//! A file is a cache: if anything does not match, the graph is built again from the vectors. The bytes are checked before they
//! are loaded, because damaged ones could end the process. The manifest is replaced last, and names the file of the bytes.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use event_log::{Identity, Log};
use event_schemas::ids::{EventId, LogId, ModelId, Position, Tenant};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::graph::{Churn, Graph, GraphError};
use super::graphs::{ModelKey, VectorsOf};
use crate::checkpoint::{Checkpoint, EventRef, Incompatible};

/// Raised when the files of an earlier build cannot be used.
const FORMAT: u32 = 1;

/// The reason why a graph was not loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("there is none")]
    Missing,
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    #[error("it is of another model, or of another build of the program")]
    Other,
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// What a file contains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    /// The version of usearch.
    library: String,
    tenant: Tenant,
    model_id: ModelId,
    dimension: usize,
    log: LogId,
    epoch: u32,
    /// The last event of the vectors.
    position: Position,
    event: EventId,
    contained: u64,
    added: u64,
    replaced: u64,
    bytes: u64,
    crc32c: u32,
}

/// The place of the files of one model.
#[derive(Clone, Debug)]
pub(crate) struct GraphFile {
    folder: PathBuf,
    tenant: Tenant,
    model_id: ModelId,
    of: VectorsOf,
}

impl GraphFile {
    pub(super) fn new(folder: &Path, (tenant, model_id, of): &ModelKey) -> Self {
        Self { folder: folder.to_owned(), tenant: tenant.clone(), model_id: model_id.clone(), of: *of }
    }

    /// Names can have characters that a file's name cannot.
    fn name(&self) -> String {
        let kind = match self.of {
            VectorsOf::Products => "",
            VectorsOf::Cutouts => "\0cutouts",
        };
        let of = format!("{}\0{}{kind}", self.tenant, self.model_id);
        Uuid::new_v5(&Uuid::NAMESPACE_OID, of.as_bytes()).to_string()
    }

    fn manifest_path(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.name()))
    }

    fn bytes_path(&self, contained: u64) -> PathBuf {
        self.folder.join(format!("{}.{contained}.usearch", self.name()))
    }

    /// Writes the graph. `last_event` is the last event that its vectors can be from.
    pub(crate) fn save(
        &self,
        graph: &Graph,
        dimension: usize,
        contained: u64,
        log: Identity,
        last_event: EventRef,
    ) -> Result<(), LoadError> {
        fs::create_dir_all(&self.folder)?;
        let path = self.bytes_path(contained);
        let unfinished = path.with_extension("tmp");
        graph.save(&unfinished)?;
        let (bytes, crc32c) = checksum(&unfinished)?;
        File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, &path)?;
        let Churn { added, replaced } = graph.churn();
        let manifest = Manifest {
            format: FORMAT,
            library: usearch::version().to_owned(),
            tenant: self.tenant.clone(),
            model_id: self.model_id.clone(),
            dimension,
            log: log.id,
            epoch: log.epoch,
            position: last_event.position,
            event: last_event.id,
            contained,
            added,
            replaced,
            bytes,
            crc32c,
        };
        let text = serde_json::to_string(&manifest).map_err(io::Error::from)?;
        let unfinished = self.manifest_path().with_extension("tmp");
        fs::write(&unfinished, format!("{text}\n{:08x}\n", crc32c::crc32c(text.as_bytes())))?;
        File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, self.manifest_path())?;
        File::open(&self.folder)?.sync_all()?;
        self.remove_others(&path)
    }

    /// Removes the files of earlier graphs of the model.
    fn remove_others(&self, kept: &Path) -> Result<(), LoadError> {
        let name = self.name();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let is_of_model = path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&name));
            if is_of_model && path != kept && path != self.manifest_path() {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn manifest(&self) -> Result<Manifest, LoadError> {
        let text = match fs::read_to_string(self.manifest_path()) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(LoadError::Missing),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(LoadError::Damaged("the manifest is not text"));
            }
            Err(error) => return Err(error.into()),
        };
        let mut lines = text.lines();
        let (written, sum) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        if sum != format!("{:08x}", crc32c::crc32c(written.as_bytes())) {
            return Err(LoadError::Damaged("the manifest's checksum does not match"));
        }
        // A manifest of another build may have other members.
        serde_json::from_str(written).map_err(|_| LoadError::Other)
    }

    /// Reads the graph, if it belongs to this log and contains at most `changes` changes. `log` is asked for the last event.
    pub(crate) async fn load(
        &self,
        dimension: usize,
        changes: u64,
        log: &Log,
        head: Position,
    ) -> Result<Graph, LoadError> {
        use event_log::EventLog;
        let manifest = self.manifest()?;
        let is_same = manifest.format == FORMAT
            && manifest.library == usearch::version()
            && (&manifest.tenant, &manifest.model_id) == (&self.tenant, &self.model_id)
            && manifest.dimension == dimension;
        if !is_same || manifest.contained > changes {
            return Err(LoadError::Other);
        }
        let checkpoint = Checkpoint {
            position: manifest.position,
            last_event: Some(EventRef { position: manifest.position, id: manifest.event }),
            ..Checkpoint::start(FORMAT, Identity { id: manifest.log, epoch: manifest.epoch })
        };
        checkpoint.check_compatible(FORMAT, log.identity(), head)?;
        checkpoint.check_history(log).await?;
        let path = self.bytes_path(manifest.contained);
        if checksum(&path)? != (manifest.bytes, manifest.crc32c) {
            return Err(LoadError::Damaged("its checksum does not match"));
        }
        let churn = Churn { added: manifest.added, replaced: manifest.replaced };
        Ok(Graph::load(&path, dimension, manifest.contained, churn)?)
    }
}

/// The length and the checksum of a file.
fn checksum(path: &Path) -> io::Result<(u64, u32)> {
    let mut file = File::open(path)?;
    let (mut bytes, mut sum, mut buffer) = (0, 0, vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, sum));
        }
        bytes += read as u64;
        sum = crc32c::crc32c_append(sum, &buffer[..read]);
    }
}
