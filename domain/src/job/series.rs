//! Jobs of which a tenant has at most one in progress: the analyses of a video, and the syncs of its cutouts.
//!
//! The jobs of a series are numbered from 0, without a gap: the next one can start when the previous one has ended. A job's id
//! is derived from the tenant, the series and the number, so that concurrent callers name the same job.

use event_schemas::ids::{JobId, Tenant, VideoId};
use event_schemas::job::{JobCreated, JobKind, JobSource};
use uuid::Uuid;

use super::analysis;

/// The namespace of the ids of all syncs of cutouts.
const CUTOUT_SYNCS: Uuid = Uuid::from_u128(0x2d1b_6a90_57c4_4e0f_8f63_c1a7_94e2_0b5d);

/// A series of jobs of one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Series {
    Analyses(VideoId),
    CutoutSyncs,
}

impl Series {
    /// The series that a job belongs to, if it belongs to one.
    pub fn of(created: &JobCreated) -> Option<Self> {
        match (&created.source, created.kind) {
            (Some(JobSource::Video { video_id, .. }), _) => Some(Self::Analyses(video_id.clone())),
            (_, JobKind::CutoutSync) => Some(Self::CutoutSyncs),
            _ => None,
        }
    }

    /// The tenant's `number`th job of the series, from 0.
    pub fn job_id(&self, tenant: &Tenant, number: u64) -> JobId {
        match self {
            Self::Analyses(video) => analysis::job_id(tenant, video, number),
            Self::CutoutSyncs => {
                let of_tenant = Uuid::new_v5(&CUTOUT_SYNCS, tenant.as_str().as_bytes());
                JobId(Uuid::new_v5(&of_tenant, &number.to_be_bytes()))
            }
        }
    }

    /// What its jobs are called in messages: what a caller has a later one of.
    pub fn later(&self) -> &'static str {
        match self {
            Self::Analyses(_) => "the video has a later analysis",
            Self::CutoutSyncs => "there is a later sync of the cutouts",
        }
    }
}
