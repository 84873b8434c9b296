use event_schemas::failure::{FailureCode, Service};

use super::advice::ADVICE;
use super::patterns::PATTERNS;
use super::*;

const JOB: JobId = JobId(Uuid::from_u128(0x11));

#[track_caller]
fn check(code: FailureCode, messages: &[&str]) {
    for message in messages {
        assert_eq!(classify(message, None, None, JOB, 1).code, code, "{message}");
    }
}

#[test]
fn real_messages_of_input_errors_are_recognised() {
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
fn real_messages_of_resource_and_service_errors_are_recognised() {
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
    check(FailureCode::SpeechToTextService, &["Whisper API returned 500", "Deepgram: internal server error"]);
    check(
        FailureCode::DatabaseService,
        &["FATAL: sorry, too many clients already", "psycopg2.errors.DeadlockDetected: deadlock detected"],
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
    check(
        FailureCode::WorkerStopped,
        &["the worker is shutting down", "process terminated by signal: 15", "Received SIGTERM, exiting"],
    );
    check(FailureCode::Unknown, &["", "index out of range", "the room is full", "frame 429 is odd"]);
}

#[test]
fn first_matching_pattern_wins() {
    check(FailureCode::NetworkTimeout, &["whisper: connection timed out"]);
    check(FailureCode::InsufficientStorage, &["postgres: no space left on device"]);
}

#[test]
fn what_happened_comes_before_whose_service_it_was() {
    for (message, code, service) in [
        (
            "429 Client Error: Too Many Requests for url: https://api.deepgram.com/v1/listen",
            FailureCode::RateLimited,
            Some(Service::SpeechToText),
        ),
        (
            "[Errno 13] Permission denied: '/root/.cache/whisper/base.pt'",
            FailureCode::PermissionDenied,
            Some(Service::SpeechToText),
        ),
        ("postgres: no space left on device", FailureCode::InsufficientStorage, Some(Service::Database)),
        ("deepgram: invalid api key", FailureCode::ServiceAuthentication, Some(Service::SpeechToText)),
        ("deepgram: HTTP 429", FailureCode::RateLimited, Some(Service::SpeechToText)),
        (
            "s3://timeout/private video.mp4: HTTP 503",
            FailureCode::ObjectStorageService,
            Some(Service::ObjectStorage),
        ),
        ("open '/tmp/rate limit/401.txt'", FailureCode::Unknown, None),
        (
            "Traceback (most recent call last):\n  File \"/a/whisper.py\", line 429, in f\n    connect(timeout=2)\nKeyError: 'x'",
            FailureCode::Unknown,
            None,
        ),
    ] {
        let error = classify(message, None, None, JOB, 1);
        assert_eq!((error.code, error.service), (code, service), "{message}");
    }
}

#[test]
fn numbers_of_systems_identify_errors_in_any_language() {
    check(
        FailureCode::ConnectionFailed,
        &[
            "[WinError 10054] Eine vorhandene Verbindung wurde vom Remotehost geschlossen",
            "curl: (52) Leere Antwort",
            "Connexion refusée (os error 111)",
        ],
    );
    check(
        FailureCode::PermissionDenied,
        &["[Errno 13] Keine Berechtigung: '/data'", "[WinError 5] Acceso denegado"],
    );
    check(
        FailureCode::InsufficientStorage,
        &["[Errno 28] Auf dem Gerät ist kein Speicherplatz mehr verfügbar"],
    );
    check(FailureCode::DnsFailure, &["[Errno -3] Temporärer Fehler", "[WinError 11001] Host desconocido"]);
    check(
        FailureCode::Unknown,
        &["[Errno 111111] ?", "frame 10054 is odd", "score 0.401 is low", "got 429 frames"],
    );
}

#[test]
fn warnings_before_an_error_did_not_happen() {
    check(FailureCode::VideoNotFound, &["WARNING: HTTP Error 429\nERROR: Video unavailable"]);
    check(FailureCode::Unknown, &["WARNING: No space left on device\nERROR: it failed"]);
    check(FailureCode::InsufficientStorage, &["WARNING: No space left on device"]);
}

#[test]
fn only_the_ends_of_a_long_message_are_read() {
    for hostile in [
        "/",
        "/a ",
        "://",
        "http://a/",
        "'",
        "\"/",
        "host ",
        "a1 ",
        "wait ",
        "retry after 1",
        "try again in a ",
        "\n  at x",
        "1s",
        ",123",
        "É",
        "(",
        "connection\u{2019}",
    ] {
        let noise = hostile.repeat(32_768 / hostile.len());
        let unread = format!("{noise}\nNo space left on device\n{noise}");
        let read = format!("{noise}{noise}\nNo space left on device");
        let code = |message: &str| classify(message, None, None, JOB, 1).code;
        assert_ne!(code(&unread), FailureCode::InsufficientStorage, "{hostile}");
        assert_eq!(code(&read), FailureCode::InsufficientStorage, "{hostile}");
    }
}

#[test]
fn exit_code_137_is_out_of_memory() {
    assert_eq!(classify("Killed", Some(137), None, JOB, 1).code, FailureCode::OutOfMemory);
    assert_eq!(classify("Killed", Some(1), None, JOB, 1).code, FailureCode::Unknown);
}

#[test]
fn unknown_error_is_retryable_once() {
    assert!(classify("?", None, None, JOB, 1).retryable);
    let second = classify("?", None, None, JOB, 2);
    assert!(!second.retryable);
    assert_eq!(second.retry_after_seconds, None);
}

#[test]
fn permanent_errors_are_not_retryable() {
    for message in ["invalid url", "video not found", "private video", "unsupported codec", "unauthorized"] {
        assert!(!classify(message, None, None, JOB, 1).retryable, "{message}");
    }
}

#[test]
fn rate_limit_delay_comes_from_header_or_message() {
    let after = |message, told| classify(message, None, told, JOB, 1).retry_after_seconds;
    assert_eq!(after("too many requests", None), Some(60));
    assert_eq!(after("too many requests, retry after 7 s", None), Some(7));
    assert_eq!(after("too many requests, retry after 7 s", Some(5)), Some(5));
    assert_eq!(after("deepgram: 503, retry after 7 s", None), Some(7));
    assert_eq!(after("HTTP 503 Service Unavailable, Retry-After: 120", None), Some(120));
    assert_eq!(after("read timed out, retry after 7 s", None), Some(2));
    assert_eq!(after("read timed out, retry after 7 s", Some(5)), Some(5));
    assert_eq!(after("invalid api key", Some(5)), None);
}

#[test]
fn support_reference_is_stable_per_job_and_attempt() {
    let reference = |job, attempt| classify("x", None, None, job, attempt).support_reference;
    assert_eq!(reference(JOB, 1), reference(JOB, 1));
    assert_ne!(reference(JOB, 1), reference(JOB, 2));
    assert_ne!(reference(JOB, 1), reference(JobId(Uuid::from_u128(0x12)), 1));
}

#[test]
fn every_code_has_advice() {
    assert!(ADVICE.len() >= 17);
    let found = PATTERNS.into_iter().flatten().map(|pattern| pattern.code);
    for code in found.chain(Service::ALL.iter().map(|service| patterns::of_service(Some(*service)))) {
        let advice = advice(code);
        assert_eq!(advice.code, code);
        assert!(advice.user_message.ends_with('.') && !advice.suggested_actions.is_empty());
    }
    for pattern in PATTERNS.into_iter().flatten() {
        assert_eq!(pattern.phrases.to_lowercase(), pattern.phrases);
    }
}
