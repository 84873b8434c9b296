//! Why a call about a group is not done.

use tonic::{Code, Status};

use super::settings::{Key, Source, Unsound};
use crate::wire::refusal::{Refusal, Trailers};
use crate::{AppendError, ReadError};

#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum GroupRefusal {
    #[error("Subscription group {} on stream {} does not exist.", .0.group, .0.source.name())]
    Missing(Key),
    /// A stream has no group at all.
    #[error("Subscription group  on stream {} does not exist.", .0.name())]
    NoneOf(Source),
    #[error("Subscription group {} on stream {} exists.", .0.group, .0.source.name())]
    Exists(Key),
    #[error("Subscription group {} on stream {} failed: '{why}'", key.group, key.source.name())]
    Unsound { key: Key, why: Unsound },
    #[error("Maximum subscriptions reached for subscription group {} on stream {}.", .0.group, .0.source.name())]
    Full(Key),
    #[error("Subscription group {} on stream {} was dropped.", .0.group, .0.source.name())]
    Dropped(Key),
    #[error("the server has as many groups as it may; delete one that nobody uses")]
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
            GroupRefusal::Unsound { key, .. } => {
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
        if let GroupRefusal::Unsound { why, .. } = &refusal {
            trailers.add("reason", &why.to_string());
        }
        Status::with_metadata(code, message, trailers.0)
    }
}
