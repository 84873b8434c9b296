//! What each error means to the requester of the work, and whether a retry may help.

use event_schemas::failure::{FailureCategory, FailureCode};

/// Whether a retry may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    Never,
    /// After this many seconds.
    After(u32),
    /// Only once, after this many seconds.
    OnceAfter(u32),
}

pub(super) struct Advice {
    pub(super) code: FailureCode,
    pub(super) category: FailureCategory,
    pub(super) retry: Retry,
    pub(super) user_message: &'static str,
    pub(super) suggested_actions: &'static [&'static str],
}

pub(super) fn advice(code: FailureCode) -> &'static Advice {
    ADVICE.iter().find(|advice| advice.code == code).unwrap_or(&UNKNOWN)
}

const fn of(
    code: FailureCode,
    category: FailureCategory,
    retry: Retry,
    user_message: &'static str,
    suggested_actions: &'static [&'static str],
) -> Advice {
    Advice { code, category, retry, user_message, suggested_actions }
}

pub(super) const ADVICE: &[Advice] = &[
    of(
        FailureCode::NetworkTimeout,
        FailureCategory::Network,
        Retry::After(2),
        "A service on the network did not answer in time.",
        &["Try again in a moment.", "If it keeps happening, check the network of the worker."],
    ),
    of(
        FailureCode::ConnectionFailed,
        FailureCategory::Network,
        Retry::After(2),
        "The connection to a service failed or was interrupted.",
        &["Try again in a moment.", "Check that the service runs and can be reached from the worker."],
    ),
    of(
        FailureCode::DnsFailure,
        FailureCategory::Network,
        Retry::After(2),
        "The name of a host could not be resolved.",
        &["Check the host's name for a typing mistake.", "Check the worker's DNS settings."],
    ),
    of(
        FailureCode::InvalidUrl,
        FailureCategory::Input,
        Retry::Never,
        "The URL cannot be used.",
        &["Check the URL and send it again."],
    ),
    of(
        FailureCode::VideoNotFound,
        FailureCategory::Input,
        Retry::Never,
        "The video does not exist, or no longer exists.",
        &["Check that the video can be watched under its URL."],
    ),
    of(
        FailureCode::PrivateVideo,
        FailureCategory::Input,
        Retry::Never,
        "The video is private, or only for some viewers.",
        &["Make the video public, or choose another."],
    ),
    of(
        FailureCode::UnsupportedVideo,
        FailureCategory::Input,
        Retry::Never,
        "The video is too long, or of a format that is not supported.",
        &["Choose a shorter video.", "Convert it to H.264 in MP4."],
    ),
    of(
        FailureCode::OutOfMemory,
        FailureCategory::Resource,
        Retry::After(30),
        "The worker ran out of memory.",
        &["Give the worker more memory.", "Split the work into smaller parts."],
    ),
    of(
        FailureCode::InsufficientStorage,
        FailureCategory::Resource,
        Retry::After(60),
        "The worker ran out of disk space.",
        &["Free space on the worker's disk, then try again."],
    ),
    of(
        FailureCode::SpeechToTextService,
        FailureCategory::External,
        Retry::After(1),
        "The speech-to-text service failed.",
        &["Try again in a few minutes.", "Check the state of the speech-to-text service."],
    ),
    of(
        FailureCode::DatabaseService,
        FailureCategory::External,
        Retry::After(1),
        "A database that the worker needs failed.",
        &["Try again in a few minutes.", "Check the state of the database."],
    ),
    of(
        FailureCode::ObjectStorageService,
        FailureCategory::External,
        Retry::After(1),
        "The object storage failed.",
        &["Try again in a few minutes.", "Check the bucket's name and the state of the storage."],
    ),
    of(
        FailureCode::RateLimited,
        FailureCategory::External,
        Retry::After(60),
        "A service limits the rate of our requests.",
        &["Wait a minute, then try again.", "More workers will not help."],
    ),
    of(
        FailureCode::ServiceAuthentication,
        FailureCategory::External,
        Retry::Never,
        "A service refused our credentials.",
        &["Renew the credentials that the worker uses for the service."],
    ),
    of(
        FailureCode::FileNotFound,
        FailureCategory::Processing,
        Retry::After(5),
        "A file from an earlier step is missing.",
        &["Try again: the earlier steps are then repeated."],
    ),
    of(
        FailureCode::PermissionDenied,
        FailureCategory::Processing,
        Retry::Never,
        "The worker has no permission for something that it needs.",
        &["Correct the permissions of the worker, then try again."],
    ),
    of(
        FailureCode::CorruptMedia,
        FailureCategory::Processing,
        Retry::Never,
        "A media file is damaged.",
        &["Upload the file again.", "Check that it plays elsewhere."],
    ),
    of(
        FailureCode::WorkerStopped,
        FailureCategory::Processing,
        Retry::After(0),
        "The worker was stopped before it finished.",
        &["No action needed: another worker resumes it automatically."],
    ),
    of(
        FailureCode::WorkerLost,
        FailureCategory::Processing,
        Retry::After(1),
        "The worker stopped responding.",
        &["No action needed: another worker resumes it automatically.", "Check that a worker runs."],
    ),
];

const UNKNOWN: Advice = of(
    FailureCode::Unknown,
    FailureCategory::Unknown,
    Retry::OnceAfter(5),
    "An unknown error occurred.",
    &["Try again once.", "If it fails again, ask for help and quote the support reference."],
);
