//! What the worker has: its permissions, files, memory, disk and media; and the worker's own end.

use event_schemas::failure::{FailureCode, Service};

use super::super::text::Numbering;
use super::{Pattern, says};

pub(super) const ROWS: &[Pattern] = &[
    says(
        FailureCode::PermissionDenied,
        "permission denied|permission error|permissionerror|eacces|eperm |operation not permitted|\
         access is denied|access denied|accessdenied|access was denied|read only file system|\
         readonly file system|read only filesystem|readonly database|erofs|insufficient privilege|\
         insufficient permission|insufficient access|have permission|not authorized to|not authorised to|\
         unauthorized for user|unauthorized access to|unauthorized access exception|unauthorizedaccess|\
         authorization exception|cluster authorization|not authorized on|command denied|\
         no permissions |is not authorized|\
         not allowed to access|permissions violation|noperm |used by another process|requires root|\
         superuser|0x80070005|not permitted to|publickey|is forbidden|in api group|write access|\
         read access|sufficient permissions|missing permission|access forbidden",
    )
    .or_near(&[
        (
            "permission permissions privilege privileges",
            "denied lacks lack insufficient missing required forbidden",
        ),
        ("access", "denied forbidden insufficient refused"),
        ("have has", "permission permissions access privilege privileges"),
    ])
    .or_number(&[
        (Numbering::Errno, &[1, 13, 30]),
        (Numbering::Windows, &[5, 19, 32, 33]),
        (Numbering::Curl, &[9]),
    ])
    .or_exit(&[126])
    .unless(
        "memory access|access violation|random access|access unit|does not exist or you do not|\
         connection slots",
    ),
    says(
        FailureCode::FileNotFound,
        "no such file|no such key|no such object|no such directory|not a directory|nosuchfile|nosuchkey|\
         file not found|ffmpeg is not installed|ffprobe is not installed|filenotfound|enoent|\
         cannot find the file|cannot find the path|cant find the file|file does not exist|file doesnt exist|\
         file is missing|file missing|path does not exist|directory does not exist|folder does not exist|\
         key does not exist|object does not exist|blob does not exist|blob not found|object not found|\
         key not found in bucket|command not found|is not recognized as an internal|ffmpeg not found|\
         ffprobe not found|no file named|cant read input file|directory not found|path not found|\
         folder not found|cant open read file|check file path|shared object file|\
         could not find a part of the path|entry not found|entrynotfound|does not appear to have a file|\
         not found in path|no such remote file|unable to locate file|input file is empty or missing|\
         unable to open file|no file found|no files found|resource not found $|resource not found 3|not present in cache",
    )
    .or_near(&[("file files directory folder path executable binary", "find missing nonexistent exist")])
    .or_status_of(Some(Service::ObjectStorage), &[404])
    .or_number(&[(Numbering::Windows, &[2, 3, 126]), (Numbering::Curl, &[37, 78])])
    .or_exit(&[127])
    .unless(
        "on socket|through socket|dial unix|mysql sock|2002 no such|already exists|keyerror|\
         cookies database|internet connection|couldnt connect|could not connect|certification path|\
         image format",
    ),
    says(
        FailureCode::OutOfMemory,
        "out of memory|outofmemory|cannot allocate|could not allocate|failed to allocate|cant allocate|\
         unable to allocate|not enough memory|insufficient memory|memory allocation|memory error|\
         memoryerror|memory exhausted|memory limit|bad alloc|oom |oomkill|enomem|alloc failed|\
         allocation failed|allocation failure|heap space|heap limit|gc overhead limit|\
         array size exceeds vm limit|native thread|metaspace|no memory|no available memory|low on memory|\
         circuit breaking exception|signal killed|killed by signal 9|code killed|signal 9 |sigkill|killed process|\
         paging file is too small|terminated abruptly|cublas status not initialized|0x8007000e|\
         low on resource memory|memory pressure|out of device memory|out of host memory|not enough vram|\
         not enough gpu memory|c0000017|error 1455|container killed|storage to process this command",
    )
    .or_near(&[
        (
            "memory vram ram heap mem memlimit",
            "exhausted insufficient exceeded low exceeds exceeding smaller allocate allocated allocating \
             enough exceed shortage unavailable full failed",
        ),
        ("cudamalloc malloc mmap calloc realloc", "failed failure error"),
    ])
    .or_number(&[(Numbering::Errno, &[12]), (Numbering::Windows, &[8, 14, 1455]), (Numbering::Curl, &[27])])
    .or_exit(&[137, -9])
    .unless("illegal memory access|invalid memory address|shared memory object|memory map failed"),
    says(
        FailureCode::InsufficientStorage,
        "no space left|cache resources exhausted|enospc|disk full|diskfull|disk is full|disk quota|edquot|\
         storage quota|insufficient storage|insufficient system storage|insufficient disk|not enough space|\
         not enough disk|not enough free space|not enough room|storage full|no storage space|out of disk|\
         out of space|space exceeded|out of storage|free drive threshold|minimum free|volume is full|\
         table is full|over storage|disk usage exceeded|flood stage|disk watermark|disk error|no free space|\
         not enough storage|disk pressure|low on resource ephemeral|ephemeral local storage|\
         could not extend file|0x80070070|insufficient free space|storage limit|device is full|\
         file system is full|filesystem is full|tape full|unable to extend|available disk space",
    )
    .or_near(&[(
        "disk storage volume filesystem drive diskspace tablespace",
        "full low exhausted exceeded exceeds insufficient extend",
    )])
    .or_number(&[(Numbering::Errno, &[28, 122]), (Numbering::Windows, &[39, 112])])
    .or_status(&[507])
    .unless("storage class|object storage|out of range"),
    says(FailureCode::ServiceAuthentication, "").or_status(&[403]),
    // The program is wrong, or reads what it did not expect.
    says(
        FailureCode::Unknown,
        "on closed channel|of closed channel|nil channel|too many open files|emfile|enfile|expecting value|\
         expected value at line|eof while parsing|unexpected end of json|unexpected token|json decode error|\
         jsondecodeerror|invalid json|in json at position|invalid character looking for|shared memory object|\
         address already in use|eaddrinuse|address in use|port is already|only one usage of each socket|\
         not found no queue|not found no exchange|precondition failed|resource locked",
    ),
    says(
        FailureCode::CorruptMedia,
        "corrupt|invalid data found|truncated|could not decode|cannot decode|failed to decode|\
         unable to decode|error while decoding|error decoding|decode error|decoding error|decoding failed|\
         decode failed|decoder error|cannot be decoded|could not be decoded|cannot identify image|\
         unsupported image format|unrecognized data stream|broken data stream|invalid jpeg|invalid png|\
         invalid image|insufficient image data|file format error|invalid tiff|invalid gif|invalid video|\
         invalid audio|invalid mp 4|invalid mp4|premature end of|not a png|not a tiff|not a gif|not a bmp|\
         not a webp|not a jp|not an mp|quantization table|huffman table|crc error|crc mismatch|\
         invalid nal unit|error splitting the input|failed to load audio|appear to contain audio|imdecode|\
         unexpected end of file|incorrect header check|bad zip file|not in gzip format|damaged|\
         ended prematurely|format not recognised|format not recognized|start with riff|be decompressed|\
         malformed media|image is malformed|broken png|broken jpeg|broken file|broken image|bad image|\
         error reading header|error reading image|header missing|header not found|missing picture|no frame|\
         non existing pps|buffer exhausted before|end element|bad magic|libpng error|not a valid image|\
         not a valid video|not a valid audio|not a valid media|not a valid jpeg|not a valid png|\
         not a valid spider|ebml|overread|demultiplex|invalid header|invalid bitstream|file is empty|\
         empty file|zero byte|0 byte file|bomb|could not read frame|failed to read frame|read video stream|read the video stream|\
         retrieve frame|cannot read frame|\
         central directory|moov|unreadable|cannot parse header|failed to parse header|checksum error",
    )
    .or_near(&[
        (
            "header frame frames bitstream packet packets image jpeg png file media container audio video \
             picture",
            "corrupt corrupted damaged truncated malformed undecodable unrecognized unreadable garbled",
        ),
        ("header headers", "parsing parse invalid missing damaged bad incomplete"),
    ])
    .unless(
        "content encoding|header value|header name|jwt|token|url|content unencoding|response|\
         end of file from server|fetch|axios|httpx|json|unicode|codec cant decode|base64|data corruption|\
         http 2|http2|valid integer|valid string|valid number|valid dictionary|valid list|valid identifier|\
         python|certificate|tls |output file is empty|protocol error|server selection|topology|image name",
    ),
    says(
        FailureCode::WorkerStopped,
        "shutdown signal|node shutdown|worker was stopped|shutting down|warm shutdown|interrupted by|\
         sigterm|sigint|signal 15 |signal interrupt|signal term|keyboard interrupt|spot interruption|\
         spot instance interruption|instance terminated|preempted|preemption|evicted|\
         terminated by signal 15|termination notice|server shutdown|scaled down|node is draining|draining|drained|scaling activity|task stopped|cordoned|\
         taint manager",
    )
    .or_exit(&[143, 130, -15, -2])
    .unless("database system is shutting down|admin shutdown|connection|cache|eviction"),
    says(
        FailureCode::WorkerLost,
        "worker lost|worker was lost|worker died|worker exited|lease ran out|lease expired|killedworker|\
         worker crashed|workers died|workers exited|no heartbeat|missed heartbeat|heartbeat lost|\
         worker process managed|is killed by signal|was killed by signal|work horse|job stalled|lost communication with the server|node is not ready|\
         nodenotready|posting node status|node failure|node fail |node down|node is down|node died|nodelost|it was running on died|zombie job|zombie task|\
         heartbeat missing",
    )
    .or_near(&[(
        "worker workers actor executor executors daemon",
        "lost died crashed dead exited unexpectedly disappeared vanished unresponsive missed",
    ), ("node kubelet agent", "heartbeat heartbeats")]).unless("amqp|pika|heartbeattimeout"),
];
