//! Makes exports of vectors: the jobs' work, and the deletion of expired files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use commands::Commands;
use commands::jobs::server_work::{ServerJob, WorkFailure, WorkProgress};
use event_log::clock::{Clock, Ids};
use event_log::{EventLog, Log};
use event_schemas::export::{ExportOptions, ExportResult};
use event_schemas::worker::WorkKind;
use projections::export::files::{ExportFiles, FileName, owner};
use projections::export::{Export, ExportError, ExportProgress};
use projections::{Name, ReadModels};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::config::Config;

/// The time that the search index has to reach the head of the log: after a start it is built from the whole log.
const INDEX_WITHIN: Duration = Duration::from_mins(10);
/// The time between two reports of progress.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// The delay after which expired files are looked for again when the store failed.
const RETRY_DELAY: Duration = Duration::from_mins(1);

/// The files of exports, and what makes them.
#[derive(Clone, Debug)]
pub(crate) struct Exports {
    files: ExportFiles,
    /// For the vectors of an export that is being written.
    folder: PathBuf,
    log: Log,
    clock: Clock,
    models: ReadModels,
    /// There is a new file.
    written: Arc<Notify>,
}

/// Ends the writing of a file when its job is no longer wanted.
struct CancelOnDrop(Arc<ExportProgress>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn failure(error: &ExportError) -> WorkFailure {
    WorkFailure::new(error.to_string())
}

impl Exports {
    pub(crate) fn new(
        config: &Config,
        files: ExportFiles,
        log: Log,
        clock: Clock,
        models: ReadModels,
    ) -> Self {
        let folder = config.data.join("exports");
        Self { files, folder, log, clock, models, written: Arc::default() }
    }

    /// Makes the exports that are asked for, and deletes expired ones until the returned task is aborted.
    pub(crate) fn start(&self, commands: &Commands) -> JoinHandle<()> {
        let exports = self.clone();
        commands.perform(WorkKind::EmbeddingExport, move |job| {
            let exports = exports.clone();
            async move { exports.perform(job).await }
        });
        let exports = self.clone();
        tokio::spawn(async move { exports.delete_expired().await })
    }

    async fn perform(&self, job: ServerJob) -> Result<Value, WorkFailure> {
        let options: ExportOptions = serde_json::from_value(job.options())
            .map_err(|error| WorkFailure::new(format!("the options of the export are invalid: {error}")))?;
        if options.expires_at <= self.clock.now() {
            return Err(WorkFailure::new("the export expired before it was made; export again"));
        }
        let head = *self.log.head().borrow();
        let caught_up = self.models.wait_for(&[Name::Search], head, INDEX_WITHIN).await;
        caught_up.map_err(|error| WorkFailure::new(error.to_string()))?;
        let name = FileName {
            owner: owner(job.tenant()),
            expires_at: options.expires_at,
            job_id: job.job_id(),
            file_id: Ids::Random.next(),
            format: options.format,
        };
        let progress = Arc::new(ExportProgress::default());
        let _cancel = CancelOnDrop(Arc::clone(&progress));
        let (exported, file_size_bytes) = self.write(&job, name, options, progress).await?;
        if let Err(error) = self.files.keep_newest(name.owner).await {
            tracing::warn!(%error, "earlier exports cannot be deleted");
        }
        self.written.notify_one();
        let result = ExportResult {
            file: name.to_string(),
            file_size_bytes,
            vector_count: exported.vectors,
            product_count: exported.products,
            embedding_dim: exported.dimension,
            as_of: exported.position,
        };
        serde_json::to_value(result).map_err(|error| WorkFailure::new(error.to_string()))
    }

    /// Writes the file in a task of its own, which removes it when it is cancelled, and reports the progress meanwhile.
    async fn write(
        &self,
        job: &ServerJob,
        name: FileName,
        options: ExportOptions,
        progress: Arc<ExportProgress>,
    ) -> Result<(projections::export::Exported, u64), WorkFailure> {
        let (tenant, files) = (job.tenant().clone(), self.files.clone());
        let ExportOptions { model_id, format, filters, .. } = options;
        let export = Export { tenant, model_id, format, filters };
        let (search, folder, reported) = (self.models.search().clone(), self.folder.clone(), progress);
        let progress = Arc::clone(&reported);
        let mut writing = tokio::spawn(async move {
            files.write(name, move |to| search.export(&export, &folder, &progress, to)).await
        });
        loop {
            tokio::select! {
                biased;
                written = &mut writing => {
                    let written = written.map_err(|error| WorkFailure::new(error.to_string()))?;
                    return written.map_err(|error| failure(&error));
                }
                () = self.clock.sleep(REPORT_EVERY) => {
                    let (items_done, total) = (reported.written(), reported.total());
                    let items_total = (total > 0).then_some(total);
                    job.report(WorkProgress { items_done, items_total, checkpoint: None }).await?;
                }
            }
        }
    }

    async fn delete_expired(&self) {
        loop {
            let next = match self.files.delete_expired(self.clock.now()).await {
                Ok(next) => next,
                Err(error) => {
                    tracing::warn!(%error, "expired exports cannot be deleted; retrying");
                    Some(self.clock.now().after(RETRY_DELAY))
                }
            };
            let expiry = async {
                match next {
                    Some(next) => self.clock.sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = expiry => {}
                () = self.written.notified() => {}
            }
        }
    }
}
