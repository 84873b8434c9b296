//! The phases of each kind of job, their order, and their share of the overall progress.

use event_schemas::job::{JobKind, Phase};

/// A phase of a pipeline, with the range of overall progress that it covers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    pub phase: Phase,
    pub from: f64,
    pub to: f64,
}

const fn stage(phase: Phase, from: f64, to: f64) -> Stage {
    Stage { phase, from, to }
}

/// Matching takes by far the most time, so the other phases get small shares.
const PRODUCT_VIDEO_MATCHING: &[Stage] = &[
    stage(Phase::Queued, 0.0, 0.0),
    stage(Phase::Collecting, 0.0, 5.0),
    stage(Phase::Extracting, 5.0, 15.0),
    stage(Phase::Matching, 15.0, 95.0),
    stage(Phase::Evidence, 95.0, 100.0),
    stage(Phase::Completed, 100.0, 100.0),
];

const VIDEO_ANALYSIS: &[Stage] = &[
    stage(Phase::Queued, 0.0, 0.0),
    stage(Phase::Downloading, 0.0, 30.0),
    stage(Phase::FetchingChat, 30.0, 35.0),
    stage(Phase::Transcribing, 35.0, 65.0),
    stage(Phase::Analyzing, 65.0, 90.0),
    stage(Phase::FindingHighlights, 90.0, 95.0),
    stage(Phase::Completed, 100.0, 100.0),
];

const ONE_STAGE: &[Stage] = &[
    stage(Phase::Queued, 0.0, 0.0),
    stage(Phase::Processing, 0.0, 100.0),
    stage(Phase::Completed, 100.0, 100.0),
];

/// The phases of a successful job, in order.
pub fn stages(kind: JobKind) -> &'static [Stage] {
    match kind {
        JobKind::ProductVideoMatching => PRODUCT_VIDEO_MATCHING,
        JobKind::VideoAnalysis => VIDEO_ANALYSIS,
        JobKind::ExtractCutouts
        | JobKind::ExtractProducts
        | JobKind::ExtractSingleProduct
        | JobKind::ModelTraining
        | JobKind::CutoutSync
        | JobKind::EmbeddingExport => ONE_STAGE,
    }
}

/// The index of a phase in the kind's pipeline; none for phases of other kinds, and for unsuccessful ends.
pub fn rank(kind: JobKind, phase: Phase) -> Option<usize> {
    stages(kind).iter().position(|stage| stage.phase == phase)
}

/// Whether a job in this phase has ended.
pub fn is_end(phase: Phase) -> bool {
    matches!(phase, Phase::Completed | Phase::Failed | Phase::Cancelled)
}

/// Whether workers claim jobs of this kind as a whole; of other kinds they claim parts.
pub fn is_claimed_whole(kind: JobKind) -> bool {
    kind != JobKind::ProductVideoMatching
}

/// The display name of the phase.
pub fn display_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Queued => "Queued",
        Phase::Collecting => "Collecting",
        Phase::Extracting => "Extracting",
        Phase::Matching => "Matching",
        Phase::Evidence => "Evidence",
        Phase::Downloading => "Downloading",
        Phase::FetchingChat => "Fetching chat",
        Phase::Transcribing => "Transcribing",
        Phase::Analyzing => "Analyzing",
        Phase::FindingHighlights => "Finding highlights",
        Phase::Processing => "Processing",
        Phase::Completed => "Completed",
        Phase::Failed => "Failed",
        Phase::Cancelled => "Cancelled",
    }
}

/// The overall progress in percent, with `fraction` (0 to 1) of `phase` done; none for a phase that is not in
/// the kind's pipeline.
pub fn percentage(kind: JobKind, phase: Phase, fraction: f64) -> Option<f64> {
    let stage = stages(kind).iter().find(|stage| stage.phase == phase)?;
    Some(stage.from + fraction.clamp(0.0, 1.0) * (stage.to - stage.from))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [JobKind; 8] = [
        JobKind::ProductVideoMatching,
        JobKind::VideoAnalysis,
        JobKind::ExtractCutouts,
        JobKind::ExtractProducts,
        JobKind::ExtractSingleProduct,
        JobKind::ModelTraining,
        JobKind::CutoutSync,
        JobKind::EmbeddingExport,
    ];

    #[test]
    fn pipelines_start_queued_and_end_completed_at_rising_shares() {
        for kind in KINDS {
            let stages = stages(kind);
            assert_eq!(stages.first().map(|stage| stage.phase), Some(Phase::Queued));
            assert_eq!(stages.last().map(|stage| (stage.phase, stage.to)), Some((Phase::Completed, 100.0)));
            assert!(stages.iter().all(|stage| stage.from <= stage.to));
            assert!(stages.windows(2).all(|pair| pair[0].to <= pair[1].from));
        }
    }

    #[test]
    fn stages_of_an_analysis_have_display_names() {
        let names = stages(JobKind::VideoAnalysis).iter().map(|stage| display_name(stage.phase));
        let expected = [
            "Queued",
            "Downloading",
            "Fetching chat",
            "Transcribing",
            "Analyzing",
            "Finding highlights",
            "Completed",
        ];
        assert!(names.eq(expected));
    }

    #[test]
    fn half_a_transcription_is_half_of_its_share() {
        assert_eq!(percentage(JobKind::VideoAnalysis, Phase::Transcribing, 0.5), Some(50.0));
        assert_eq!(percentage(JobKind::VideoAnalysis, Phase::Queued, 0.5), Some(0.0));
        assert_eq!(percentage(JobKind::VideoAnalysis, Phase::Completed, 0.0), Some(100.0));
        assert_eq!(percentage(JobKind::VideoAnalysis, Phase::Matching, 0.5), None);
    }
}
