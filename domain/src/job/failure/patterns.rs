//! The table of recognised errors, tried from top to bottom: the first match wins.
//!
//! The order is what the message says happened, from the most specific to the least; errors that it only
//! mentions with another come after that one. Which service it happened to is found apart.

use event_schemas::failure::{FailureCode, Service};

/// One row of the table.
pub(super) struct Pattern {
    pub(super) code: FailureCode,
    /// Phrases of lower-case words, divided by `|`, one of which occurs in the message.
    pub(super) phrases: &'static str,
    /// Pairs of words of which one each occurs, close to each other: in the first and in the second of two
    /// lists.
    pub(super) near: &'static [(&'static str, &'static str)],
    /// Phrases with which the row does not apply.
    pub(super) unless: &'static str,
    /// HTTP statuses, one of which is in the message.
    pub(super) statuses: &'static [u16],
    /// The service to which a status applies: any, or this one or none.
    pub(super) status_of: Named,
    /// Exit codes that identify the error without a message.
    pub(super) exit_codes: &'static [i32],
}

/// The service that the message names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Any,
    Only(Option<Service>),
}

const fn says(code: FailureCode, phrases: &'static str) -> Pattern {
    Pattern { code, phrases, near: &[], unless: "", statuses: &[], status_of: Named::Any, exit_codes: &[] }
}

impl Pattern {
    const fn or_near(self, near: &'static [(&'static str, &'static str)]) -> Self {
        Self { near, ..self }
    }

    const fn unless(self, unless: &'static str) -> Self {
        Self { unless, ..self }
    }

    const fn or_status(self, statuses: &'static [u16]) -> Self {
        Self { statuses, ..self }
    }

    const fn or_status_of(self, status_of: Option<Service>, statuses: &'static [u16]) -> Self {
        Self { statuses, status_of: Named::Only(status_of), ..self }
    }

    const fn or_exit(self, exit_codes: &'static [i32]) -> Self {
        Self { exit_codes, ..self }
    }
}

pub(super) const PATTERNS: &[Pattern] = &[
    says(
        FailureCode::RateLimited,
        "rate limit|ratelimit|too many requests|too many concurrent|throttl|slow down|\
         reduce your request rate|rate exceeded|quota exceeded|quota has been exceeded|\
         exceeded your current quota|exceeded quota|insufficient quota|request limit exceeded|\
         limit exceeded exception|throughput exceeded|throughput for the table was exceeded|\
         resource exhausted|resource has been exhausted|requests per minute|requests per second|\
         concurrency limit|server busy|usage limit|\
         number of allowed parallel|concurrent requests|parallel requests|request quota|\
         daily limit|hourly limit|monthly limit",
    ).or_near(&[("quota", "exceeded exhausted insufficient"), ("rate", "exceeded limit limited limits")])
    .or_status(&[429])
    .unless("disk quota|disk usage|storage quota|out of memory|oom |allocat|received message larger"),
    says(
        FailureCode::ServiceAuthentication,
        "unauthorized|unauthorised|unauthenticated|not authenticated|authentication fail|\
         authentication error|authentication required|authentication is required|\
         failed to authenticate|unable to authenticate|could not authenticate|must be authenticated|\
         invalid auth|invalid authentication|auth fail|invalid api key|invalid x api key|\
         incorrect api key|api key not valid|api key is invalid|api key is not valid|api key invalid|\
         api key expired|api key client option must be set|no api key|missing api key|\
         api key missing|api key is missing|api key is required|resolve authentication method|\
         invalid credential|bad credential|incorrect credential|credentials have expired|\
         credentials expired|unable to locate credentials|determine credentials|\
         default credentials were not found|no credentials|could not load credentials|access key id|\
         invalid access key|signature does not match|request signature we calculated|expired token|\
         token has expired|token expired|token is expired|token has been expired|\
         token has been revoked|jwt expired|invalid token|invalid oauth|invalid o auth|\
         invalid access token|invalid bearer|invalid or missing token|missing or invalid token|\
         token missing|token is invalid|token included in the request is invalid|invalid grant|\
         invalid client|login was refused|login failed|login incorrect|wrongpass|noauth |\
         authorization violation|authorization failed|password authentication|no pg hba|\
         access denied for user|invalid username or password|invalid user credentials|\
         incorrect username or password|not a bot|forbidden|\
         payment required|not enough credits|credit balance|no hba conf|provide an api key|\
         provide your api key|api key provided|access credentials|sufficient permissions|\
         o auth client|client secret",
    ).or_near(&[("credential credentials password passwd apikey jwt oauth", "invalid incorrect expired wrong missing rejected refused bad revoked"), ("token tokens key", "expired revoked")])
    .or_status(&[401, 402, 407])
    .unless("syntax error"),
    says(
        FailureCode::InvalidUrl,
        "invalid url|invalid uri|malformed url|malformed uri|bad url|illegal url|url malformed|\
         not a valid url|url is invalid|url is not valid|url is missing|unsupported url|\
         relative url without a base|no host in url|empty host|no connection adapters were found|\
         missing schema|invalid schema|no scheme supplied|no host supplied|unsupported protocol|\
         missing protocol|missing an or protocol|not supported or disabled in libcurl|url using bad|\
         url rejected|failed to parse url|cannot parse url|could not parse url|invalid video url|\
         unknown url type|nonnumeric port|url scheme|\
         first path segment in url|invalid international domain name|missing host|invalid domain",
    ),
    says(
        FailureCode::PrivateVideo,
        "private video|video is private|vod is private|subscriber only|subscribers only|sub only|\
         members only|only available to subscribers|join this channel to get access|requires payment|\
         requires purchase|sign in to confirm|sign in if youve been granted|login required|\
         you must be logged in|only available for registered users|age restricted|age verification|\
         password protected|video password|available in your country|available in your region|\
         available in your location|available from your location|in your country on copyright|\
         geo restrict|geo block|works when logged in|log in to|protected by a password|\
         must be subscribed|subscribe to watch|purchase to watch|log in to watch|sign in to watch",
    ),
    says(
        FailureCode::VideoNotFound,
        "video not found|vod not found|clip not found|video does not exist|vod does not exist|\
         video doesnt exist|video unavailable|video is unavailable|video is not available|\
         video is no longer available|video has been removed|video was removed|video was deleted|\
         video has been deleted|video has expired|vod has expired|no playable streams|\
         content is unavailable|clip is no longer available|stream is offline|\
         channel does not exist|no longer exists",
    ).or_near(&[("video vod clip", "unavailable removed deleted expired")])
    .or_status_of(None, &[404, 410]),
    says(
        FailureCode::UnsupportedVideo,
        "unsupported format|unsupported codec|unsupported video|unsupported audio|unsupported media|\
         unsupported file|unsupported container|unknown codec|unknown decoder|unknown format|\
         not found for input stream|could not find codec parameters|codec not supported|\
         codec is not supported|format not supported|format is not supported|invalid file format|\
         requested format is not available|no video formats found|drm protected|video is too long|\
         video too long|exceeds the maximum duration|exceeds maximum duration|\
         exceeds the maximum length|exceeds maximum length|longer than the maximum|\
         maximum content size|request entity too large|payload too large|content too large|\
         file is too large|does not contain any stream|no video stream|no audio stream|\
         no audio track|no video track|no decoder|no suitable|\
         audio file is too short|video is too short|audio too short|longer than|matches no streams|no decodable|exceeds limit of",
    ).or_near(&[("codec decoder demuxer", "unsupported unknown unavailable missing")])
    .or_status(&[413, 415]),
    says(
        FailureCode::PermissionDenied,
        "permission denied|permission error|permissionerror|eacces|eperm |operation not permitted|\
         access is denied|access denied|read only file system|readonly file system|\
         read only filesystem|readonly database|erofs|insufficient privilege|insufficient permission|\
         have permission|not authorized to|not authorised to|permissions violation|noperm |\
         used by another process",
    ).or_near(&[("permission permissions access privilege privileges", "denied lacks insufficient"), ("have", "permission permissions access privilege privileges")])
    .or_exit(&[126]),
    says(
        FailureCode::FileNotFound,
        "no such file|no such key|no such object|nosuchfile|file not found|filenotfound|enoent|\
         cannot find the file|cannot find the path|cant find the file|file does not exist|\
         file doesnt exist|path does not exist|directory does not exist|key does not exist|\
         blob does not exist|blob not found|object not found|executable file not found|\
         command not found|ffmpeg not found|ffprobe not found|no file named|cant read input file|directory not found",
    ).or_near(&[("file directory folder path", "find missing nonexistent")])
    .or_status_of(Some(Service::ObjectStorage), &[404])
    .or_exit(&[127])
    .unless("on socket|through socket|dial unix|could not connect to server"),
    says(
        FailureCode::OutOfMemory,
        "out of memory|outofmemory|cannot allocate|could not allocate|failed to allocate|\
         unable to allocate|not enough memory|insufficient memory|memory allocation|memory error|\
         memoryerror|memory exhausted|memory limit|bad alloc|oom |oom kill|oomkill|enomem|\
         alloc failed|allocation failed|heap space|gc overhead limit|array size exceeds vm limit|\
         signal killed|signal 9 |sigkill|killed process|paging file is too small|terminated abruptly|no available memory|\
         no memory|cublas status not initialized|oom killer",
    ).or_near(&[("memory vram ram heap", "exhausted insufficient exceeded low exceeds")])
    .or_exit(&[137, -9]),
    says(
        FailureCode::InsufficientStorage,
        "no space left|enospc|disk full|disk is full|disk quota|edquot|storage quota|\
         insufficient storage|insufficient disk|not enough space|not enough disk|\
         not enough free space|storage full|no storage space|out of disk|free drive threshold|\
         minimum free|volume is full|\
         disk usage exceeded|flood stage|disk error|no free space|not enough storage",
    ).or_near(&[("disk storage volume filesystem drive", "full low exhausted exceeded insufficient")])
    .or_status(&[507]),
    says(FailureCode::ServiceAuthentication, "").or_status(&[403]),
    says(
        FailureCode::CorruptMedia,
        "corrupt|invalid data found when processing input|moov atom|truncated|could not decode|\
         cannot decode|failed to decode|unable to decode|error while decoding|error decoding|\
         cannot identify image|unsupported image format|broken data stream|invalid jpeg|invalid png|\
         premature end of jpeg|premature end of input|not a jpeg|crc error|crc mismatch|\
         invalid nal unit|error splitting the input|failed to load audio|appear to contain audio|\
         imdecode|unexpected end of file|incorrect header check|bad zip file|not in gzip format|damaged|ended prematurely|format not recognised|format not recognized|start with riff|not a valid image|not a valid video|not a valid audio|\
         could not be decoded|be decompressed|malformed media|image is malformed|broken png|\
         broken jpeg|broken file|error reading header|missing picture|no frame|bad magic|\
         invalid header|bomb",
    )
    .unless(
        "content encoding|response body|end of file from server|fetch|axios|httpx|json|unicode|\
         codec cant decode|base64|data corruption",
    ),
    says(
        FailureCode::WorkerStopped,
        "worker is shutting down|worker was stopped|warm shutdown|interrupted by shutdown|sigterm|\
         signal 15 |signal terminated|keyboard interrupt|\
         spot interruption|instance terminated|preempted|preemption|being evicted",
    )
    .or_exit(&[143]),
    says(
        FailureCode::WorkerLost,
        "worker lost|worker was lost|worker died|worker exited|lease ran out|lease expired|\
         killedworker|worker crashed|workers died|workers exited|no heartbeat",
    ),
    says(
        FailureCode::NetworkTimeout,
        "timed out|timedout|etimedout|time out|gateway timeout|deadline exceeded|\
         deadline has elapsed|deadline expired|took too long to respond|did not respond in time|\
         did not properly respond|ping timeout|i o timeout|winerror 10060|time limit|\
         too slow|waiting for connection|receive ack in time|while awaiting headers|\
         execution expired",
    )
    .or_status(&[408, 504, 522, 524]),
    says(
        FailureCode::NetworkTimeout,
        "connect timeout|connection timeout|read timeout|request timeout|response timeout|\
         handshake timeout|socket timeout|operation timeout",
    )
    .unless("configured timeouts"),
    says(
        FailureCode::DnsFailure,
        "could not resolve|couldnt resolve|cannot resolve host|failed to resolve|\
         unable to resolve host|name or service not known|name resolution|name not resolved|\
         failed to lookup address|address lookup failed|hostname lookup|domain name not found|\
         nodename nor servname|no address associated with hostname|no such host|unknown host|\
         getaddrinfo|gaierror|enotfound|eai again|nxdomain|servfail|dns |\
         translate host name|does not resolve|dns resolution|lookup failed",
    ).or_near(&[("host hostname domain", "resolve resolved resolving resolution")]),
    says(
        FailureCode::ConnectionFailed,
        "connection refused|actively refused|connection reset|reset by peer|connection abort|\
         connection closed|closed connection|closed the connection|closed network connection|\
         connection was closed|connection is closed|connection has been closed|connection lost|\
         lost connection|connection dropped|connection terminated|connection error|connectionerror|\
         connection broken|connection was forcibly closed|aborted by the software|connect error|\
         connect call failed|connection attempts failed|network error|network exception|networkerror|\
         econnrefused|econnreset|econnaborted|epipe|ehostunreach|enetunreach|ehostdown|enotconn|\
         broken pipe|failed to connect|could not connect|couldnt connect|cannot connect|cant connect|\
         unable to connect|error trying to connect|failed to establish|no route to host|\
         network is unreachable|network unreachable|host unreachable|host is unreachable|\
         host is down|network is down|network down|socket hang up|socket closed|socket is closed|\
         socket disconnected|socket error|other side closed|server disconnected|server has gone away|\
         remote end closed|peer closed|empty reply|incomplete read|incompleteread|\
         payload is not completed|not enough data to satisfy|transfer closed|stream has been aborted|\
         stream was aborted|premature close|fetch failed|failed to fetch|proxy error|\
         tunnel connection failed|bad status line|httpparser|header parser received no bytes|\
         content encoding|end of file from server|unexpected eof|eof occurred|eof $|goaway|\
         rst stream|http 2 stream|no brokers available|no servers available|no responders available|\
         not connected|disconnect exception|error sending request|sending request for url|\
         body from connection|communicating with the server|no close frame|check your connection|\
         did not get any data blocks|network dropped|on socket|through socket|dial unix|\
         certificate verify failed|certificate has expired|self signed certificate|\
         certificate signed by unknown authority|valid certification path|ssl error|sslerror|\
         ssl routines|ssl handshake|tls handshake|handshake failure|wrong version number|\
         ssl connection|error decoding response body|incorrect header check|internet disconnected|end of file|certificate chain|ssl certificate|\
         closing transport|brokers are down|broker is down|incomplete message|incompletemessage|\
         stream error|refused stream|http response to https client|malformed http response|\
         connection broken|transport error|transport closed|peer certificate|first certificate|\
         fatal alert|verify certificate|ssl syscall|eof detected|abruptly|upstream connect|hung up",
    ).or_near(&[("connection connect socket websocket tunnel", "closed lost terminated terminating dropped reset refused aborted broken disconnected interrupted"), ("server host remote peer broker", "disconnected unreachable hung"), ("certificate", "invalid expired untrusted unknown verify")]),
    says(FailureCode::ConnectionFailed, "connection failed|connection is bad").unless("fatal "),
    says(FailureCode::NetworkTimeout, "timeout").unless("lock wait timeout|statement timeout|lock timeout"),
    // The program is wrong, whatever it works with.
    says(
        FailureCode::Unknown,
        "module not found error|no module named|attribute error|name error|index error|key error|\
         assertion error|null pointer exception|panicked at",
    ),
];

/// The rows for messages that match no other and name no service: what they are about.
pub(super) const HINTS: &[Pattern] = &[
    says(FailureCode::ServiceAuthentication, "credential|password|api key|apikey|oauth|bearer|unauthor|jwt "),
    says(
        FailureCode::ConnectionFailed,
        "connection|socket|websocket|ssl |tls |certificate|handshake|unreachable|disconnected|eof ",
    )
    .unless("max retries exceeded"),
    says(FailureCode::UnsupportedVideo, "codec|decoder|pixel format|sample rate").unless("json|unicode"),
    says(FailureCode::OutOfMemory, "killed process|out of vram|oom"),
    says(FailureCode::InsufficientStorage, "disk space|free space"),
];

/// The code if the message says nothing more than whose service failed.
pub(super) fn of_service(service: Option<Service>) -> FailureCode {
    match service {
        Some(Service::SpeechToText) => FailureCode::SpeechToTextService,
        Some(Service::Database) => FailureCode::DatabaseService,
        Some(Service::ObjectStorage) => FailureCode::ObjectStorageService,
        Some(Service::VideoSource | Service::Chat) | None => FailureCode::Unknown,
    }
}
