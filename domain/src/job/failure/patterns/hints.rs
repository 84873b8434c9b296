//! What a message is about, if it matches no other row and names no service.

use event_schemas::failure::FailureCode;

use super::{Pattern, says};

pub(super) const ROWS: &[Pattern] = &[
    // The program is called wrongly.
    says(
        FailureCode::Unknown,
        "positional argument|keyword argument|invalid int value|unrecognized argument|unrecognized option|\
         missing field|option not found|scanner error|scannererror|parser error|parsererror|\
         required property",
    ),
    says(FailureCode::InvalidUrl, "").or_near(&[("url uri link", "valid invalid wrong")]),
    says(
        FailureCode::RateLimited,
        "limited to|too often|too frequent|too many times|cooldown|cool down|try again in|request volume|\
         burst",
    )
    .or_near(&[("limit limits", "reached exceeded exceed exceeds hit")])
    .unless(
        "memory|size|length|recursion|retry|restart|backoff|retries|redirect|depth|context|token|duration|\
         file",
    ),
    says(
        FailureCode::PrivateVideo,
        "log in for access|login for access|some audiences|subscribers|members|patrons|premium|sign in to|\
         pay per view|vpn|embargo",
    )
    .unless("group member|existing members|cluster member|set member"),
    says(
        FailureCode::ServiceAuthentication,
        "credential|password|api key|apikey|oauth|bearer|unauthor|jwt |login|log in|sign in|access token|\
         refresh token|auth |authenticat|secret key|captcha",
    )
    .or_near(&[(
        "account accounts subscription license licence",
        "expired suspended disabled invalid inactive blocked",
    )]),
    says(
        FailureCode::VideoNotFound,
        "not started|has not begun|will begin in|premieres in|upcoming|no longer online",
    )
    .or_near(&[(
        "video vod clip stream livestream channel broadcast episode event",
        "available exist ended scheduled",
    )])
    .unless("format|codec|model"),
    says(FailureCode::PermissionDenied, "not allowed|not permitted|privilege|denied|runas")
        .unless("method not allowed|inside multi|not allowed in"),
    says(
        FailureCode::FileNotFound,
        "cannot be opened|could not be opened|cannot open|could not open|cant open|failed to open|\
         unable to open",
    )
    .or_near(&[(
        "npy npz jpg jpeg png mp mov mkv wav json yaml yml toml csv txt pt pth onnx bin safetensors ckpt \
         weights checkpoint config dll so",
        "found missing locate exist",
    )]),
    says(
        FailureCode::OutOfMemory,
        "killed python|killed node|killed ffmpeg|killed java|out of vram|oom|memory",
    )
    .unless(
        "memory access|memory address|in memory|memory leak|shared memory|memory map|memory format|\
         memory layout|memory corruption|no information",
    ),
    says(FailureCode::InsufficientStorage, "disk space|free space|storage space"),
    says(
        FailureCode::NetworkTimeout,
        "elapsed|deadline|not complete within|did not finish within|expired while waiting",
    ),
    says(
        FailureCode::ConnectionFailed,
        "connection|socket|websocket|ssl |tls |certificate|handshake|unreachable|disconnected|eof |proxy|\
         upstream server|bad gateway from",
    )
    .or_near(&[("network", "error errors fail* problem issue trouble interface lost outage")])
    .unless(
        "max retries exceeded|websocket via|via websocket|setup network|network for sandbox|\
         neural network|filter network|network for pod|create network|network namespace",
    ),
    says(FailureCode::CorruptMedia, "truncating packet|demux|bitstream|malformed|unreadable|broken frame")
        .unless("json|policy|request|response|html|xml|sql|yaml|url"),
    says(FailureCode::UnsupportedVideo, "codec|pixel format|sample rate|resolution is|frame rate is")
        .or_near(&[(
            "format formats video audio media file files container mime stream",
            "supported unsupported incompatible unimplemented",
        )])
        .unless("json|unicode|incorrect parameters"),
];
