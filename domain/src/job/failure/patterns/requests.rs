//! What the request asks for: its URL, and the video.

use event_schemas::failure::FailureCode;

use super::super::text::Numbering;
use super::{Pattern, says};

pub(super) const ROWS: &[Pattern] = &[
    says(
        FailureCode::InvalidUrl,
        "invalid url|invalid uri|malformed url|malformed uri|bad url|illegal url|url malformed|\
         not a valid url|not valid url|url is invalid|url is not valid|url is missing|url not valid|\
         url must|url cannot be|url should|url did not match|url is not supported|url not supported|\
         unsupported url|unsupported uri|unknown url|unrecognized url|relative url without a base|\
         no host in url|empty host|no connection adapters were found|absolute url|no uri to|no url to|\
         embed url|idna|missing schema|invalid schema|no host supplied|unsupported protocol|\
         protocol not supported|unsupported scheme|unknown scheme|invalid scheme|no scheme|missing scheme|\
         missing protocol|missing an or protocol|not supported or disabled in libcurl|url using bad|\
         url rejected|failed to parse url|cannot parse url|could not parse url|unable to parse url|\
         invalid video url|invalid link|valid link|nonnumeric port|url scheme|uri scheme|\
         location parse error|locationparseerror|invalid hostname|invalid host name|invalid ipv 6|\
         invalid ipv6|invalid port|first path segment in url|invalid international domain name|missing host|\
         invalid domain|invalid authority|protocol not found|bad hostname|bad ipv 6|bad ipv6|\
         port number was|malformed input to a url|suitable extractor|no protocol|remote content error|\
         publicly routable|url query string|is not a url|url is malformed|url decode error|bad scheme|\
         unsupported site|can handle url|invalid character in host",
    )
    .or_near(&[("url uri", "malformed parsed unparsable illegal")])
    .or_number(&[(Numbering::Curl, &[1, 3])])
    .unless("altname|certificate"),
    says(
        FailureCode::PrivateVideo,
        "private video|password required|requires a password|verification is required|video is private|\
         vod is private|subscriber only|subscribers only|sub only|members only|for subscribers|\
         to subscribers|for members|only available to|for premium|premium only|premium members|\
         paid subscribers|join this channel to get access|requires payment|requires purchase|\
         must be purchased|requires a subscription|requires subscription|sign in to confirm|\
         sign in if youve been granted|login required|registered users|registered members|age restrict|\
         age limited|age verification|age gate|confirm your age|inappropriate for some users|adult content|\
         password protected|video password|in your country|available in your region|\
         available in your location|unavailable in your|from your location|from your country|geo restrict|\
         georestrict|geoblock|geo block|works when logged in|log in to|protected by a password|\
         must be subscribed|subscribe to watch|purchase to watch|sign in to watch|manifest restricted|\
         followers only|friends only|is not public|only works when logged|rent this|rental|\
         approved is required|private account|this account is private|private channel|private playlist|\
         video is restricted|restricted by the uploader|being logged in|login to access your|\
         need to login to|available from your ip|logged in users|login is required|log in is required|\
         supporter|patron|requires login|requires an account|requires registration|\
         requires authentication to view|be logged in|logged in to|access to this post|access to this video|\
         access to this content|access to this stream|access to this course|access to this vod|\
         tickets to this|not entitled|entitlement",
    )
    .or_near(&[(
        "video videos vod content stream playlist clip broadcast episode recording channel channels",
        "country region location area private premium restricted geo subscription subscribers subscriber \
         members member paid locked login purchase registered tickets",
    )])
    .or_status(&[451])
    .unless("private ip"),
    says(
        FailureCode::VideoNotFound,
        "video not found|vod not found|clip not found|video does not exist|vod does not exist|\
         video doesnt exist|video unavailable|video is unavailable|video is not available|\
         not currently available|video has been removed|video was removed|video was deleted|\
         video has been deleted|video has expired|vod has expired|no playable streams|\
         content is unavailable|content is not available|content not available|content isnt available|\
         not currently live|is not live|channel does not exist|no longer exists|no longer available|\
         no such video|no video found|no videos found|no video with|no video in|no video on|\
         stream is offline|radio is offline|video is offline|\
         account associated with this video has been terminated|stream is not available|\
         stream is unavailable|stream unavailable|not available yet|not yet available|unknown channel|\
         video has been made private|live has ended|livestream has ended|stream has ended|\
         broadcast has ended|video isnt available|not made this video available|page not found|\
         media not found|episode not found|streamer not found|post not found|playlist does not exist|\
         taken down|copyright",
    )
    .or_near(&[
        (
            "video videos vod vods clip clips broadcast episode livestream channel content track song tweet \
             post space",
            "inaccessible unavailable removed deleted gone exist offline unreachable",
        ),
        (
            "video videos vod vods clip clips channel broadcast episode user streamer space tweet fragment",
            "find found posted",
        ),
    ])
    .unless(
        "format|codec|video stream|audio stream|in file|nats|jetstream|consumer|model|on socket|pubsub|\
         redis|no such object|no such key|subtitle|caption|transcript|video data|found in video|\
         data found|found when",
    ),
    says(FailureCode::VideoNotFound, "").or_status_of(None, &[404, 410]).unless(
        "exchange|queue|topic|subscription|secret|function|model|container|docker|image|repository|entry not found|entrynotfound|collection|index not found|\
         table|database|deployment|namespace|pod |endpoint not|no route|user not|org|assistant|thread|file|\
         blob|object|bucket|dataset|revision|manifest unknown|found false",
    ),
    says(
        FailureCode::UnsupportedVideo,
        "unsupported format|bad encoding|must be wav|must be mono|input too long|unsupported encoding|\
         unsupported sample|unsupported codec|unsupported video|unsupported audio|unsupported media|\
         unsupported file|unsupported container|unsupported pixel|unsupported input|unsupported image mode|\
         unsupported manifest|unknown codec|unknown decoder|unknown encoder|unknown format|\
         unknown container|not found for input stream|decoder not found|demuxer not found|muxer not found|\
         encoder not found|could not find codec parameters|codec not supported|codec is not supported|\
         format not supported|format is not supported|file type not|file type is not|invalid file format|\
         invalid file type|unsupported mime|requested format is not available|format not available|\
         determine output|protected videos|no video formats found|drm |video is too long|video too long|\
         audio too long|audio is too long|maximum duration|maximum allowed duration|remapped id|\
         no supported media|stream is of a different type|no supported video|no supported format|no supported source|\
         larger than the configured|exceeds the maximum length|exceeds maximum length|\
         maximum content size|maximum file size|maximum allowed size|allowed file size|max file size|\
         maximum upload size|file size limit|size limit exceeded|maximum size|exceeds the limit of|\
         exceeds limit of|payload too large|content too large|entity too large|body too large|\
         too large body|larger than max filesize|file is too large|file too large|file is too big|\
         file size exceed|does not contain any stream|no video stream|no audio stream|streams found|\
         no streams|no audio track|no video track|no decoder|decode delegate|unsupported source|no suitable|\
         not implemented in ffmpeg|not yet implemented in ffmpeg|audio file is too short|video is too short|\
         audio too short|audio is too short|cannot determine format|suitable output format|no decodable|\
         could not find a writer|missing a plug in|missing a plugin|no valid stream|unrecognized media|\
         unrecognised media|patch welcome|not currently supported in container|incompatible with output|\
         could not find tag for|moviepy error unable to find|cannot write mode",
    )
    .or_near(&[
        (
            "codec codecs decoder demuxer encoder muxer container format mime extension filetype",
            "unsupported unknown unavailable missing unrecognized unrecognised unimplemented",
        ),
        ("audio video file duration upload body media length clip", "exceeds exceed"),
        ("plugin plugins", "missing required"),
        ("audio video file files duration media clip clips recording recordings input inputs stream segment", "longer"),
    ])
    .or_status(&[413, 415])
    .or_number(&[(Numbering::Curl, &[63])])
    .unless(
        "bomb|took longer|taking longer|unsupported image format|method not implemented|disk|quota|memory|\
         file descriptor|no such file|read timeout",
    ),
];
