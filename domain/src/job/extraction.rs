//! Extractions: jobs that make vectors of images with a model, item by item. An item is a cutout, or an image of a product.
//!
//! Which items are still to do follows from the vectors that exist and from the job's checkpoint ([`items`]): a worker that dies
//! loses nothing, and the next one continues at the items that are not done.

pub mod items;
mod view;

use event_schemas::job::{ItemFailure, ItemsReport, JobKind, JobProgressReported};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use view::{ExtractionView, view};

/// The kinds of jobs that extract vectors.
pub const KINDS: [JobKind; 3] =
    [JobKind::ExtractCutouts, JobKind::ExtractProducts, JobKind::ExtractSingleProduct];

/// The most products that a job can name.
pub const PRODUCTS_MAX: usize = 100;

/// The most failures in a report, and the most that a job keeps; all of them are counted.
pub const FAILURES_MAX: usize = 50;

/// The longest reason of a failure, in bytes.
pub const REASON_MAX: usize = 500;

/// The images of which an extraction makes vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TargetType {
    Cutouts,
    Products,
}

impl TargetType {
    /// The targets of a kind of job; none if it extracts nothing.
    pub fn of(kind: JobKind) -> Option<Self> {
        match kind {
            JobKind::ExtractCutouts => Some(Self::Cutouts),
            JobKind::ExtractProducts | JobKind::ExtractSingleProduct => Some(Self::Products),
            JobKind::ProductVideoMatching
            | JobKind::VideoAnalysis
            | JobKind::ModelTraining
            | JobKind::CutoutSync
            | JobKind::EmbeddingExport => None,
        }
    }
}

/// Whether a report is larger than one may be.
pub(super) fn is_large(items: &ItemsReport) -> bool {
    // The id of a product and that of an image have at most 128 characters each.
    let is_large = |failure: &ItemFailure| failure.reason.len() > REASON_MAX || failure.item_id.len() > 512;
    items.failures.len() > FAILURES_MAX || items.failures.iter().any(is_large)
}

/// The progress of a job over its items, through all of its attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemsProgress {
    pub done: u64,
    /// None before the first report.
    pub total: Option<u64>,
    pub failed: u64,
    /// The first [`FAILURES_MAX`] of the failed items.
    pub failures: Vec<ItemFailure>,
}

impl ItemsProgress {
    /// The progress after a report. One of an earlier state changes nothing, and one without items neither.
    pub(super) fn apply(&mut self, report: &JobProgressReported) {
        let Some(items) = self.newer(report) else { return };
        for failure in &items.failures {
            if self.failures.len() < FAILURES_MAX && !self.failures.contains(failure) {
                self.failures.push(failure.clone());
            }
        }
        self.failed = items.items_failed;
        self.done = report.items_done.unwrap_or(self.done);
        self.total = report.items_total.or(self.total);
    }

    /// The items of the report, unless it reports an earlier state.
    fn newer<'a>(&self, report: &'a JobProgressReported) -> Option<&'a ItemsReport> {
        let items = report.items.as_deref()?;
        let handled = report.items_done.unwrap_or(self.done).saturating_add(items.items_failed);
        (handled >= self.done.saturating_add(self.failed)).then_some(items)
    }

    /// Whether the report changes it.
    pub(super) fn is_older_than(&self, report: &JobProgressReported) -> bool {
        let mut after = self.clone();
        after.apply(report);
        after != *self
    }

    /// The memory of its texts.
    pub fn text_bytes(&self) -> usize {
        let failure =
            |failure: &ItemFailure| size_of::<ItemFailure>() + failure.item_id.len() + failure.reason.len();
        self.failures.iter().map(failure).sum()
    }
}

#[cfg(test)]
mod tests;
