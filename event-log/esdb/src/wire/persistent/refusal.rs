//! Errors of calls about groups.

use tonic::{Code, Status};

use super::settings::{GroupKey, GroupSource, InvalidSettings};
use crate::wire::refusal::{Refusal, Trailers};
use event_log::{AppendError, ReadError};

#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum GroupRefusal {
    #[error("Subscription group {} on stream {} does not exist.", .0.group, .0.source.name())]
    Missing(GroupKey),
    /// The stream has no groups.
    #[error("Subscription group  on stream {} does not exist.", .0.name())]
    NoneOf(GroupSource),
    #[error("Subscription group {} on stream {} exists.", .0.group, .0.source.name())]
    Exists(GroupKey),
    #[error("Subscription group {} on stream {} failed: '{reason}'", key.group, key.source.name())]
    InvalidSettings { key: GroupKey, reason: InvalidSettings },
    #[error("Maximum subscriptions reached for subscription group {} on stream {}.", .0.group, .0.source.name())]
    Full(GroupKey),
    #[error("Subscription group {} on stream {} was dropped.", .0.group, .0.source.name())]
    Dropped(GroupKey),
    #[error("the server has the maximum number of groups; delete an unused one")]
    TooMany,
    #[error(transparent)]
    Call(#[from] Refusal),
}

impl From<AppendError> for GroupRefusal {
    fn from(error: AppendError) -> Self {
        Self::Call(error.into())
    }
}

impl From<ReadError> for GroupRefusal {
    fn from(error: ReadError) -> Self {
        Self::Call(error.into())
    }
}

impl From<GroupRefusal> for Status {
    fn from(refusal: GroupRefusal) -> Self {
        let message = refusal.to_string();
        let (code, exception, source, group) = match &refusal {
            GroupRefusal::Call(refusal) => return refusal.clone().into(),
            GroupRefusal::TooMany => return Status::resource_exhausted(message),
            GroupRefusal::Missing(key) => {
                (Code::NotFound, "persistent-subscription-does-not-exist", &key.source, key.group.as_str())
            }
            GroupRefusal::NoneOf(source) => {
                (Code::NotFound, "persistent-subscription-does-not-exist", source, "")
            }
            GroupRefusal::Exists(key) => {
                (Code::AlreadyExists, "persistent-subscription-exists", &key.source, key.group.as_str())
            }
            GroupRefusal::InvalidSettings { key, .. } => {
                (Code::Internal, "persistent-subscription-failed", &key.source, key.group.as_str())
            }
            GroupRefusal::Full(key) => {
                (Code::FailedPrecondition, "maximum-subscribers-reached", &key.source, key.group.as_str())
            }
            GroupRefusal::Dropped(key) => {
                (Code::Cancelled, "persistent-subscription-dropped", &key.source, key.group.as_str())
            }
        };
        let mut trailers = Trailers::default();
        trailers.exception(exception);
        trailers.add("stream-name", source.name());
        trailers.add("group-name", group);
        if let GroupRefusal::InvalidSettings { reason, .. } = &refusal {
            trailers.add("reason", &reason.to_string());
        }
        Status::with_metadata(code, message, trailers.0)
    }
}
