//! Recognising what went wrong from what a worker reports.
//!
//! [`PATTERNS`] is tried from top to bottom and the first match wins, so what is more telling stands higher within its
//! group. To recognise something new, add a row, or a phrase to a row, and a real message to the test.

use event_schemas::failure::{ClassifiedError, FailureCategory, FailureCode};
use event_schemas::ids::JobId;
use uuid::Uuid;

/// Whether it may go well another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    Never,
    /// After this many seconds.
    After(u32),
    /// Once only, after this many seconds.
    OnceAfter(u32),
}

struct Pattern {
    code: FailureCode,
    category: FailureCategory,
    /// Lower-case phrases, one of which occurs in the message. Numbers and names in quotes between words do not matter.
    phrases: &'static [&'static str],
    /// Exit codes that say it without words.
    exit_codes: &'static [i32],
    user_message: &'static str,
    suggested_actions: &'static [&'static str],
    again: Again,
}

const PATTERNS: &[Pattern] = &[
    Pattern {
        code: FailureCode::NetworkTimeout,
        category: FailureCategory::Network,
        phrases: &[
            "timed out",
            "timeout",
            "time-out",
            "etimedout",
            "deadline exceeded",
            "took too long to respond",
        ],
        exit_codes: &[],
        user_message: "A service on the network did not answer in time.",
        suggested_actions: &[
            "Try again in a moment.",
            "If it keeps happening, check the network of the worker.",
        ],
        again: Again::After(2),
    },
    Pattern {
        code: FailureCode::ConnectionFailed,
        category: FailureCategory::Network,
        phrases: &[
            "connection refused",
            "connection reset",
            "connection aborted",
            "connection closed",
            "connection failed",
            "connection error",
            "connectionerror",
            "econnrefused",
            "econnreset",
            "broken pipe",
            "failed to connect",
            "could not connect",
            "cannot connect",
            "network is unreachable",
            "no route to host",
        ],
        exit_codes: &[],
        user_message: "The connection to a service could not be made, or broke off.",
        suggested_actions: &[
            "Try again in a moment.",
            "Check that the service runs and can be reached from the worker.",
        ],
        again: Again::After(2),
    },
    Pattern {
        code: FailureCode::DnsFailure,
        category: FailureCategory::Network,
        phrases: &[
            "could not resolve host",
            "name or service not known",
            "name resolution",
            "failed to lookup address",
            "nodename nor servname",
            "getaddrinfo",
            " enotfound",
            "nxdomain",
            "dns error",
            "dns failure",
            "dns lookup",
        ],
        exit_codes: &[],
        user_message: "The name of a host could not be resolved.",
        suggested_actions: &[
            "Check the host's name for a typing mistake.",
            "Check the worker's DNS settings.",
        ],
        again: Again::After(2),
    },
    Pattern {
        code: FailureCode::InvalidUrl,
        category: FailureCategory::Input,
        phrases: &[
            "invalid url",
            "malformed url",
            "unsupported url",
            "not a valid url",
            "url is invalid",
            "url is not valid",
            "relative url without a base",
            "no host in url",
            "invalid uri",
        ],
        exit_codes: &[],
        user_message: "The URL cannot be used.",
        suggested_actions: &["Check the URL and send it again."],
        again: Again::Never,
    },
    Pattern {
        code: FailureCode::VideoNotFound,
        category: FailureCategory::Input,
        phrases: &[
            "video not found",
            "vod not found",
            "video does not exist",
            "vod does not exist",
            "video unavailable",
            "video is unavailable",
            "video is not available",
            "video is no longer available",
            "video has been removed",
            "video was deleted",
            "video has been deleted",
            "http error 404",
        ],
        exit_codes: &[],
        user_message: "The video is not there, or no longer.",
        suggested_actions: &["Check that the video can be watched under its URL."],
        again: Again::Never,
    },
    Pattern {
        code: FailureCode::PrivateVideo,
        category: FailureCategory::Input,
        phrases: &[
            "private video",
            "video is private",
            "vod is private",
            "subscriber-only",
            "subscribers only",
            "sub-only",
            "members-only",
            "only available to subscribers",
            "sign in to confirm",
            "login required",
            "you must be logged into",
            "age-restricted",
        ],
        exit_codes: &[],
        user_message: "The video is private, or only for some viewers.",
        suggested_actions: &["Make the video public, or choose another."],
        again: Again::Never,
    },
    Pattern {
        code: FailureCode::UnsupportedVideo,
        category: FailureCategory::Input,
        phrases: &[
            "unsupported format",
            "unsupported codec",
            "unsupported video",
            "unsupported media",
            "unknown codec",
            "video is too long",
            "video too long",
            "exceeds the maximum duration",
            "exceeds maximum duration",
            "exceeds the maximum length",
            "exceeds maximum length",
            "does not contain any stream",
        ],
        exit_codes: &[],
        user_message: "The video is too long, or of a format that is not supported.",
        suggested_actions: &["Choose a shorter video.", "Convert it to H.264 in MP4."],
        again: Again::Never,
    },
    Pattern {
        code: FailureCode::OutOfMemory,
        category: FailureCategory::Resource,
        phrases: &[
            "out of memory",
            "cannot allocate memory",
            "memory allocation of",
            "memoryerror",
            "bad_alloc",
            "oomkilled",
            "oom-kill",
            "oom killer",
            "enomem",
            " oom ",
        ],
        exit_codes: &[137],
        user_message: "The worker ran out of memory.",
        suggested_actions: &["Give the worker more memory.", "Split the work into smaller parts."],
        again: Again::After(30),
    },
    Pattern {
        code: FailureCode::InsufficientStorage,
        category: FailureCategory::Resource,
        phrases: &[
            "no space left on device",
            "enospc",
            "disk full",
            "disk is full",
            "disk quota exceeded",
            "insufficient storage",
            "not enough space",
            "not enough disk space",
            "storage full",
        ],
        exit_codes: &[],
        user_message: "The worker ran out of disk space.",
        suggested_actions: &["Make room on the worker's disk, then try again."],
        again: Again::After(60),
    },
    Pattern {
        code: FailureCode::SpeechToTextService,
        category: FailureCategory::External,
        phrases: &[
            "speech-to-text",
            "speech to text",
            "speech recognition",
            "whisper",
            "deepgram",
            "assemblyai",
            "transcription service",
            "transcription api",
            "transcription failed",
        ],
        exit_codes: &[],
        user_message: "The speech-to-text service failed.",
        suggested_actions: &["Try again in a few minutes.", "Check the state of the speech-to-text service."],
        again: Again::After(1),
    },
    Pattern {
        code: FailureCode::DatabaseService,
        category: FailureCategory::External,
        phrases: &[
            "database",
            "postgres",
            "sqlstate",
            "sqlite",
            "mysql",
            "mongodb",
            "deadlock detected",
            "too many clients already",
            "could not serialize access",
        ],
        exit_codes: &[],
        user_message: "A database that the worker needs failed.",
        suggested_actions: &["Try again in a few minutes.", "Check the state of the database."],
        again: Again::After(1),
    },
    Pattern {
        code: FailureCode::ObjectStorageService,
        category: FailureCategory::External,
        phrases: &[
            "object storage",
            "object store",
            "nosuchbucket",
            "nosuchkey",
            "the specified bucket",
            "blob storage",
            "putobject",
            "getobject",
            "minio",
            " s3 ",
            "s3://",
            "amazonaws.com",
        ],
        exit_codes: &[],
        user_message: "The object storage failed.",
        suggested_actions: &[
            "Try again in a few minutes.",
            "Check the bucket's name and the state of the storage.",
        ],
        again: Again::After(1),
    },
    Pattern {
        code: FailureCode::RateLimited,
        category: FailureCategory::External,
        phrases: &[
            "rate limit",
            "rate-limit",
            "ratelimit",
            "too many requests",
            "http 429",
            "status 429",
            "status code 429",
            "error 429",
            "quota exceeded",
            "throttled",
            "throttling",
            "slow down",
        ],
        exit_codes: &[],
        user_message: "A service asks us to send fewer requests.",
        suggested_actions: &["Wait a minute, then try again.", "More workers will not help."],
        again: Again::After(60),
    },
    Pattern {
        code: FailureCode::ServiceAuthentication,
        category: FailureCategory::External,
        phrases: &[
            "unauthorized",
            "unauthenticated",
            "invalid api key",
            "incorrect api key",
            "invalid credentials",
            "authentication failed",
            "authentication required",
            "invalid access token",
            "token has expired",
            "token expired",
            "http 401",
            "status code 401",
            "status 401",
            "forbidden",
        ],
        exit_codes: &[],
        user_message: "A service refused our credentials.",
        suggested_actions: &["Renew the credentials that the worker uses for the service."],
        again: Again::Never,
    },
    Pattern {
        code: FailureCode::FileNotFound,
        category: FailureCategory::Processing,
        phrases: &[
            "no such file or directory",
            "file not found",
            "filenotfounderror",
            "enoent",
            "cannot find the file",
            "file does not exist",
            "path does not exist",
        ],
        exit_codes: &[],
        user_message: "A file that an earlier step should have left is not there.",
        suggested_actions: &["Try again: the earlier steps are then repeated."],
        again: Again::After(5),
    },
    Pattern {
        code: FailureCode::PermissionDenied,
        category: FailureCategory::Processing,
        phrases: &[
            "permission denied",
            "permissionerror",
            "eacces",
            " eperm",
            "operation not permitted",
            "access is denied",
            "read-only file system",
        ],
        exit_codes: &[126],
        user_message: "The worker may not read or write a file that it needs.",
        suggested_actions: &["Correct the rights of the worker's folders, then try again."],
        again: Again::Never,
    },
    Pattern {
        code: FailureCode::CorruptMedia,
        category: FailureCategory::Processing,
        phrases: &[
            "corrupt",
            "invalid data found when processing input",
            "moov atom not found",
            "truncated",
            "could not decode",
            "cannot decode",
            "failed to decode",
            "error while decoding",
            "error decoding",
            "cannot identify image file",
            "unexpected end of file",
            "invalid jpeg",
            "premature end of jpeg",
        ],
        exit_codes: &[],
        user_message: "A media file is damaged.",
        suggested_actions: &["Upload the file again.", "Check that it plays elsewhere."],
        again: Again::Never,
    },
    Pattern {
        code: FailureCode::WorkerLost,
        category: FailureCategory::Processing,
        phrases: &["worker lost", "worker was lost", "lease ran out", "lease expired"],
        exit_codes: &[],
        user_message: "The worker that had the work went away.",
        suggested_actions: &["Nothing: another worker takes it up by itself.", "Check that a worker runs."],
        again: Again::After(1),
    },
];

const UNKNOWN: Pattern = Pattern {
    code: FailureCode::Unknown,
    category: FailureCategory::Unknown,
    phrases: &[],
    exit_codes: &[],
    user_message: "Something went wrong that is not known yet.",
    suggested_actions: &[
        "Try again once.",
        "If it fails again, ask for help and quote the support reference.",
    ],
    again: Again::OnceAfter(5),
};

/// Recognises an error from its message and the exit code of the process that had it. The same arguments give the same
/// answer for ever, support reference included.
pub fn classify(message: &str, exit_code: Option<i32>, job: JobId, attempt: u32) -> ClassifiedError {
    let worded = words(message, |_| true);
    // "video 2039 not found" says the same as "video not found".
    let bare = words(message, |word| !is_a_name_or_number(word));
    let says = |phrase: &&str| worded.contains(*phrase) || bare.contains(*phrase);
    let pattern = PATTERNS
        .iter()
        .find(|pattern| {
            pattern.phrases.iter().any(says)
                || exit_code.is_some_and(|code| pattern.exit_codes.contains(&code))
        })
        .unwrap_or(&UNKNOWN);
    let retry_after_seconds = match pattern.again {
        Again::Never => None,
        Again::After(seconds) => Some(seconds),
        Again::OnceAfter(seconds) => (attempt <= 1).then_some(seconds),
    };
    ClassifiedError {
        code: pattern.code,
        category: pattern.category,
        message: message.to_owned(),
        user_message: pattern.user_message.to_owned(),
        suggested_actions: pattern.suggested_actions.iter().map(|action| (*action).to_owned()).collect(),
        retryable: retry_after_seconds.is_some(),
        retry_after_seconds,
        support_reference: support_reference(job, attempt),
    }
}

/// The words in lower case, each with a space on both sides, so that a phrase can ask for whole words.
fn words(message: &str, keep: impl Fn(&str) -> bool) -> String {
    let mut text = String::from(" ");
    for word in message.split_whitespace().filter(|word| keep(word)) {
        text.push_str(&word.to_lowercase());
        text.push(' ');
    }
    text
}

fn is_a_name_or_number(word: &str) -> bool {
    let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
    word.starts_with(['"', '\'', '`']) || (!bare.is_empty() && bare.chars().all(|c| c.is_ascii_digit()))
}

fn support_reference(job: JobId, attempt: u32) -> String {
    let digest = Uuid::new_v5(&job.0, format!("attempt {attempt}").as_bytes());
    let (high, low) = ((digest.as_u128() >> 112) as u16, (digest.as_u128() >> 96) as u16);
    format!("MB-{high:04X}-{low:04X}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: JobId = JobId(Uuid::from_u128(0x11));

    #[track_caller]
    fn check(code: FailureCode, messages: &[&str]) {
        for message in messages {
            assert_eq!(classify(message, None, JOB, 1).code, code, "{message}");
        }
    }

    #[test]
    fn real_messages_are_recognised() {
        check(
            FailureCode::NetworkTimeout,
            &[
                "HTTPSConnectionPool(host='usher.ttvnw.net', port=443): Read timed out. (read timeout=20)",
                "error sending request for url (http://localhost:9/): operation timed out",
                "context deadline exceeded",
                "504 Gateway Time-out",
            ],
        );
        check(
            FailureCode::ConnectionFailed,
            &[
                "[Errno 111] Connection refused",
                "requests.exceptions.ConnectionError: ('Connection aborted.', RemoteDisconnected())",
                "curl: (7) Failed to connect to example.org port 443",
                "write tcp 10.0.0.4:5022: broken pipe",
            ],
        );
        check(
            FailureCode::DnsFailure,
            &[
                "curl: (6) Could not resolve host: vod.example",
                "[Errno -2] Name or service not known",
                "getaddrinfo ENOTFOUND api.twitch.tv",
                "socket.gaierror: [Errno -3] Temporary failure in name resolution",
            ],
        );
        check(
            FailureCode::InvalidUrl,
            &["ERROR: Unsupported URL: https://example.org/x", "Invalid URL 'twitch': No scheme supplied"],
        );
        check(
            FailureCode::VideoNotFound,
            &[
                "ERROR: [twitch:vod] v1: Video 2039 not found",
                "ERROR: Video unavailable. This video has been removed by the uploader",
                "Unable to download webpage: HTTP Error 404: Not Found",
                "video \"clip 7\" not found",
            ],
        );
        check(
            FailureCode::PrivateVideo,
            &[
                "ERROR: Private video. Sign in if you've been granted access to this video",
                "This VOD is only available to subscribers",
                "Sign in to confirm your age. This video may be inappropriate for some users.",
            ],
        );
        check(
            FailureCode::UnsupportedVideo,
            &[
                "Video is too long: 14:02:11",
                "Output file does not contain any stream",
                "unsupported codec: prores_raw",
            ],
        );
    }

    #[test]
    fn real_messages_about_resources_and_services_are_recognised() {
        check(
            FailureCode::OutOfMemory,
            &[
                "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
                "OSError: [Errno 12] Cannot allocate memory",
                "memory allocation of 1073741824 bytes failed",
                "terminate called after throwing an instance of 'std::bad_alloc'",
                "oom",
            ],
        );
        check(
            FailureCode::InsufficientStorage,
            &["OSError: [Errno 28] No space left on device", "Disk quota exceeded"],
        );
        check(
            FailureCode::SpeechToTextService,
            &["Whisper API returned 500", "Deepgram: internal server error"],
        );
        check(
            FailureCode::DatabaseService,
            &[
                "FATAL: sorry, too many clients already",
                "psycopg2.errors.DeadlockDetected: deadlock detected",
            ],
        );
        check(
            FailureCode::ObjectStorageService,
            &[
                "An error occurred (NoSuchBucket) when calling the PutObject operation",
                "could not write s3://evidence/a.jpg: 503",
            ],
        );
        check(FailureCode::RateLimited, &["HTTP 429 Too Many Requests", "You exceeded your rate limit"]);
        check(
            FailureCode::ServiceAuthentication,
            &["401 Client Error: Unauthorized for url", "Incorrect API key provided"],
        );
        check(
            FailureCode::FileNotFound,
            &["FileNotFoundError: [Errno 2] No such file or directory: '/tmp/f000.jpg'", "file not found"],
        );
        check(FailureCode::PermissionDenied, &["PermissionError: [Errno 13] Permission denied: '/data'"]);
        check(
            FailureCode::CorruptMedia,
            &[
                "[mov,mp4,m4a] moov atom not found",
                "PIL.UnidentifiedImageError: cannot identify image file 'f.jpg'",
                "Format error decoding Jpeg: invalid JPEG format",
            ],
        );
        check(FailureCode::WorkerLost, &["the lease ran out"]);
        check(FailureCode::Unknown, &["", "index out of range", "the room is full", "frame 429 is odd"]);
    }

    #[test]
    fn the_first_pattern_that_matches_wins() {
        check(FailureCode::NetworkTimeout, &["whisper: connection timed out"]);
        check(FailureCode::InsufficientStorage, &["postgres: no space left on device"]);
    }

    #[test]
    fn exit_code_137_is_out_of_memory_without_words() {
        assert_eq!(classify("Killed", Some(137), JOB, 1).code, FailureCode::OutOfMemory);
        assert_eq!(classify("Killed", Some(1), JOB, 1).code, FailureCode::Unknown);
    }

    #[test]
    fn an_unknown_error_is_retryable_once() {
        assert!(classify("?", None, JOB, 1).retryable);
        let second = classify("?", None, JOB, 2);
        assert!(!second.retryable);
        assert_eq!(second.retry_after_seconds, None);
    }

    #[test]
    fn what_cannot_go_well_another_time_is_not_retryable() {
        for message in
            ["invalid url", "video not found", "private video", "unsupported codec", "unauthorized"]
        {
            assert!(!classify(message, None, JOB, 1).retryable, "{message}");
        }
    }

    #[test]
    fn a_rate_limited_call_says_how_long_to_wait() {
        assert_eq!(classify("too many requests", None, JOB, 1).retry_after_seconds, Some(60));
    }

    #[test]
    fn the_support_reference_is_the_same_for_the_same_job_and_attempt() {
        let reference = |job, attempt| classify("x", None, job, attempt).support_reference;
        assert_eq!(reference(JOB, 1), reference(JOB, 1));
        assert_ne!(reference(JOB, 1), reference(JOB, 2));
        assert_ne!(reference(JOB, 1), reference(JobId(Uuid::from_u128(0x12)), 1));
    }

    #[test]
    fn there_is_a_pattern_for_every_code_and_each_helps() {
        assert!(PATTERNS.len() >= 17);
        for pattern in PATTERNS.iter().chain([&UNKNOWN]) {
            assert!(pattern.user_message.ends_with('.'));
            assert!(!pattern.suggested_actions.is_empty());
            assert!(pattern.phrases.iter().all(|phrase| phrase.to_lowercase() == *phrase));
        }
    }
}
