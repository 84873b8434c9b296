//! One extraction: lists the images that are still to do, and records their vectors and the progress, page by page.
//!
//! A worker may die at any time. Vectors are recorded before the progress that counts them, and what has a vector is not listed
//! again; a failed image is behind the checkpoint of the next report. So the next worker does neither again.

use futures_util::{StreamExt, stream};
use matchbook_worker::client::{CallError, Client};
use matchbook_worker::worker::{Claimed, WorkError};
use reqwest::Method;
use serde_json::{Value, json};
use tracing::{debug, warn};

use crate::descriptor::{DIMENSION, MODEL, describe};
use crate::fetch::Fetcher;
use crate::picture::{PictureError, decode};
use crate::wire::{Embedding, FailedItem, Item, Page, Progress, Recorded, Reported, Source};

/// The kinds of jobs that it does.
pub const KINDS: &[&str] = &["extract_cutouts", "extract_products", "extract_single_product"];

/// The images of a page: at most as many as a report may have failures.
const PAGE: usize = 50;
/// The failures in the result; the job has the first 50.
const FAILURES_IN_RESULT: usize = 20;
/// The longest reason of a failure, in letters.
const REASON_MAX: usize = 120;

/// Makes vectors of images.
#[derive(Clone, Debug)]
pub struct Embedder {
    pub client: Client,
    pub fetcher: Fetcher,
    /// The number of images that are downloaded and described at a time.
    pub parallel: usize,
    /// A pause after each page, for demonstrations and tests.
    pub pace: std::time::Duration,
}

/// The counts of an extraction so far.
#[derive(Debug)]
struct Counts {
    total: u64,
    done: u64,
    failed: u64,
    failures: Vec<FailedItem>,
}

impl Embedder {
    /// Registers the model, if the server does not know it, and makes it the active one of images if that is wanted.
    ///
    /// # Errors
    /// [`CallError`] if the server refuses, for instance because the model was deleted.
    pub async fn register(&self, activate: bool) -> Result<(), CallError> {
        let model = json!({
            "id": MODEL, "name": "Histogram of oriented gradients, with colours", "model_type": "hog",
            "purpose": "image", "embedding_dim": DIMENSION,
        });
        let _: Value = self.client.command(Method::POST, "/api/v1/embeddings/models", &model).await?;
        if activate {
            let path = format!("/api/v1/embeddings/models/{MODEL}/activate");
            let _: Value = self.client.command(Method::POST, &path, &json!({})).await?;
        }
        Ok(())
    }

    /// Does an extraction, and returns its result.
    ///
    /// # Errors
    /// [`WorkError`] if it is of another model, or the server refuses a call.
    pub async fn extract(&self, claimed: &Claimed) -> Result<Value, WorkError> {
        let failed = |message: String| WorkError::Failed(message);
        let source: Source = serde_json::from_value(claimed.source.clone()).map_err(|_| {
            failed("the job names no model; start it by POST /api/v1/embeddings/extract".to_owned())
        })?;
        if source.model_id != MODEL {
            let message = format!(
                "this worker makes vectors of the model `{MODEL}`, and the job asks for `{}`; activate `{MODEL}`, or start \
                 a worker of the other model",
                source.model_id
            );
            return Err(failed(message));
        }
        let reported: Reported = serde_json::from_value(claimed.progress.clone()).unwrap_or_default();
        let mut cursor = reported.checkpoint.clone();
        let mut page = self.page(claimed, cursor.as_deref(), true).await?;
        let remaining = page.total.unwrap_or_default();
        // What the vectors of an earlier worker show was done, although its last report does not say so.
        let total =
            reported.items_total.unwrap_or(0).max(reported.items_done + reported.items_failed + remaining);
        let done = total - remaining - reported.items_failed;
        let mut counts = Counts { total, done, failed: reported.items_failed, failures: Vec::new() };
        self.report(claimed, &counts, &[], None).await?;
        loop {
            if !page.items.is_empty() {
                let failures = self.embed(&page.items, &mut counts).await?;
                let checkpoint = page.items.last().map(|item| item.checkpoint.as_str());
                self.report(claimed, &counts, &failures, checkpoint).await?;
                let room = FAILURES_IN_RESULT.saturating_sub(counts.failures.len());
                counts.failures.extend(failures.into_iter().take(room));
                tokio::time::sleep(self.pace).await;
            }
            match page.next_cursor.take() {
                Some(next) => cursor = Some(next),
                None => break,
            }
            page = self.page(claimed, cursor.as_deref(), false).await?;
        }
        Ok(json!({
            "model_id": MODEL, "items_total": counts.total, "items_done": counts.done, "items_failed": counts.failed,
            "failures": counts.failures,
        }))
    }

    async fn page(&self, claimed: &Claimed, cursor: Option<&str>, is_first: bool) -> Result<Page, CallError> {
        let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let job = &claimed.job_id;
        let path = format!("/api/v1/embeddings/jobs/{job}/items?limit={PAGE}&count={is_first}{cursor}");
        // The claim's position covers the vectors that an earlier worker has recorded.
        let min = Some(&claimed.position).filter(|position| is_first && !position.is_null());
        self.client.get(&path, min).await
    }

    /// Makes and records the vectors of a page, and returns the images that failed.
    async fn embed(&self, items: &[Item], counts: &mut Counts) -> Result<Vec<FailedItem>, CallError> {
        let described = items.iter().map(|item| self.describe(item));
        let described: Vec<Result<Vec<f32>, String>> =
            stream::iter(described).buffered(self.parallel.max(1)).collect().await;
        let mut failures = Vec::new();
        let mut embedded = Vec::new();
        for (item, described) in items.iter().zip(&described) {
            match described {
                Ok(vector) => embedded.push((item, vector)),
                Err(reason) => failures.push(failure(item, reason)),
            }
        }
        failures.extend(self.record(&embedded).await?);
        counts.failed += failures.len() as u64;
        counts.done += (items.len() - failures.len()) as u64;
        // Images came while the job ran.
        counts.total = counts.total.max(counts.done + counts.failed);
        Ok(failures)
    }

    /// The vector of an image, or why it has none.
    async fn describe(&self, item: &Item) -> Result<Vec<f32>, String> {
        let bytes = self.fetcher.fetch(&item.image_url).await.map_err(|error| error.to_string())?;
        // Not on the thread of the calls, so that heartbeats continue; and a panic of a decoder is an error of this image.
        let described = tokio::task::spawn_blocking(move || {
            let image = decode(&bytes)?;
            Ok::<_, PictureError>(describe(&image))
        });
        let described = described.await.unwrap_or(Err(PictureError::Panicked));
        let described = described.map_err(|error| error.to_string())?;
        described.ok_or_else(|| "the image is of one colour".to_owned())
    }

    /// Records vectors, and returns the images whose vector the server rejects.
    async fn record(&self, embedded: &[(&Item, &Vec<f32>)]) -> Result<Vec<FailedItem>, CallError> {
        let mut failures = Vec::new();
        let (cutouts, products): (Vec<_>, Vec<_>) =
            embedded.iter().partition(|(item, _)| item.cutout_id.is_some());
        for (path, part) in
            [("/api/v1/cutouts/embeddings/batch", cutouts), ("/api/v1/products/embeddings/batch", products)]
        {
            if part.is_empty() {
                continue;
            }
            let body: Vec<Embedding<'_>> =
                part.iter().map(|(item, vector)| embedding(item, vector)).collect();
            let recorded: Recorded = self.client.command(Method::POST, path, &body).await?;
            let rejected = recorded.results.into_iter().filter(|result| result.status == "rejected");
            failures.extend(rejected.filter_map(|result| {
                let (item, _) = part.get(result.index)?;
                let reason = result.errors.first().and_then(|error| error["reason"].as_str());
                Some(failure(
                    item,
                    &format!("the server rejected the vector: {}", reason.unwrap_or("no reason")),
                ))
            }));
        }
        Ok(failures)
    }

    async fn report(
        &self,
        claimed: &Claimed,
        counts: &Counts,
        failures: &[FailedItem],
        checkpoint: Option<&str>,
    ) -> Result<(), CallError> {
        for failure in failures {
            warn!(item = failure.item_id, reason = failure.reason, "image failed");
        }
        let Counts { total, done, failed, .. } = *counts;
        let fraction = if total == 0 { 1.0 } else { (done + failed) as f64 / total as f64 };
        let progress = Progress {
            stage: "processing",
            fraction,
            items_done: done,
            items_total: total,
            items_failed: failed,
            failures,
            checkpoint,
        };
        let _: Value = self.client.command(Method::POST, &claimed.path("progress"), &progress).await?;
        debug!(job = claimed.job_id, done, failed, total, "progress reported");
        Ok(())
    }
}

fn embedding<'a>(item: &'a Item, vector: &'a [f32]) -> Embedding<'a> {
    Embedding {
        cutout_id: item.cutout_id,
        product_id: item.product_id.as_ref(),
        image_id: item.image_id.as_deref(),
        model_id: MODEL,
        vector,
    }
}

fn failure(item: &Item, reason: &str) -> FailedItem {
    let reason = reason.chars().take(REASON_MAX).collect();
    FailedItem { item_id: item.id(), image_id: item.image_id.clone(), reason }
}
