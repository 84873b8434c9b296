//! The network: timeouts, names of hosts and connections.

use event_schemas::failure::FailureCode;

use super::super::text::Numbering;
use super::{Pattern, says};

pub(super) const ROWS: &[Pattern] = &[
    // A lookup that takes too long fails otherwise than a connection.
    says(FailureCode::DnsFailure, "dial tcp lookup|dial udp lookup"),
    says(
        FailureCode::NetworkTimeout,
        "timed out|timedout|etimedout|esockettimedout|etimeout|time out|gateway time|deadline exceeded|\
         deadline has elapsed|deadline expired|deadline has expired|took too long|did not respond in time|\
         didnt respond in time|not respond within|no response within|no response received within|\
         within the specified time|within the timeout|did not properly respond|ping timeout|i o timeout|\
         time limit|too slow|waiting for connection|receive ack in time|while awaiting headers|\
         execution expired|execution time|timeout occurred|walltime|runlimit|run time limit|took longer|taking longer|timeout of|timeout in data|\
         less than bytes sec|acquire connection from pool",
    )
    .or_near(&[
        ("response answer reply respond", "within late"),
        ("deadline", "exceeded elapsed expired passed missed"),
    ])
    .or_number(&[
        (Numbering::Errno, &[60, 110, 10060]),
        (Numbering::Windows, &[121, 258, 1460, 10060]),
        (Numbering::Curl, &[28]),
    ])
    .or_status(&[408, 504, 522, 524, 598, 599])
    .or_exit(&[124])
    .unless("did not time out"),
    says(
        FailureCode::NetworkTimeout,
        "connect timeout|connection timeout|read timeout|request timeout|response timeout|handshake timeout|\
         socket timeout|operation timeout",
    )
    .unless("configured timeouts"),
    says(
        FailureCode::ConnectionFailed,
        "altname|alt name|certificate verify|certificate has expired|certificate is not valid|\
         certificate signed by|subject alternative|match certificate|match the certificate|x 509|x509",
    ),
    says(
        FailureCode::DnsFailure,
        "could not resolve|couldnt resolve|cannot resolve host|cant resolve host|failed to resolve|\
         unable to resolve host|name or service not known|name resolution|name not resolved|\
         failed to lookup address|hostname lookup|domain name not found|nodename nor servname|\
         no address associated with|no such host|unknown host|unknownhost|unknown server host|\
         unknown mysql server host|unresolved address|unresolvedaddress|getaddrinfo|gethostbyname|gaierror|\
         enotfound|eai again|eai noname|eai fail|nxdomain|servfail|eservfail|translate host name|\
         does not resolve|lookup failed|host not found|failure resolving|server misbehaving|\
         hostname not found|non recoverable failure in name|no answer from dns|enodata|bad address",
    )
    .or_near(&[
        (
            "host hostname hostnames domain dns address",
            "resolve resolved resolving resolution resolvable unresolvable unresolved",
        ),
        ("bootstrap", "resolvable resolve resolved"),
        ("name", "resolved resolution"),
        (
            "dns",
            "error errors fail* lookup query queries server servers timeout timed unavailable unreachable down \
             name problem settings response answer probe",
        ),
        ("host hostname", "found"),
        ("lookup", "host hostname domain dns address timeout tcp udp"),
    ])
    .or_number(&[
        (Numbering::Errno, &[11001, 11002, 11004]),
        (Numbering::Windows, &[11001, 11002, 11003, 11004]),
        (Numbering::Curl, &[5, 6]),
    ])
    .unless("dns compatible|module|dependency|import|conflict|resolve reference"),
    says(
        FailureCode::ConnectionFailed,
        "connection refused|readerror|writeerror|connecterror|protocolerror|connectionerror|\
         actively refused|connection reset|reset by peer|connection abort|connection closed|\
         closed connection|closed the connection|closed network connection|connection was closed|\
         connection was lost|network request failed|connection is closed|connection has been closed|\
         connection lost|lost connection|connection dropped|connection terminated|connection error|\
         connection broken|connection was forcibly closed|aborted by the software|connect error|\
         connect call failed|connect failed|connection attempts failed|network error|network exception|\
         networkerror|econnrefused|econnreset|econnaborted|erefused|epipe|ehostunreach|enetunreach|enetdown|\
         enetreset|ehostdown|enotconn|eproto|eaddrnotavail|broken pipe|failed to connect|could not connect|\
         couldnt connect|cannot connect|cant connect|unable to connect|not able to connect|\
         error trying to connect|error connecting|failed to establish|could not establish|cannot establish|\
         unable to establish|no connection|no route to host|network is unreachable|network unreachable|\
         host unreachable|host is unreachable|destination unreachable|server unreachable|host is down|\
         network is down|network down|socket hang up|socket closed|socket is closed|socket disconnected|\
         socket error|open socket|other side closed|server disconnected|server has gone away|\
         remote end closed|peer closed|empty reply|incomplete read|incompleteread|payload is not completed|\
         bytes expected|more expected|not enough data to satisfy|transfer closed|partial file|\
         bytes remaining|stream has been aborted|stream was aborted|stream refused|premature close|\
         ends prematurely|prematurely closed|closed prematurely|fetch failed|failed to fetch|proxy error|\
         tunnel connection failed|bad status line|httpparser|header parser received no bytes|\
         content encoding|unexpected eof|early eof|eof occurred|eof $|goaway|rst stream|http 2 stream|\
         http 2 framing|http2 framing|http 2 error|http2 error|http 2 protocol error|http 3 error|\
         http3 error|quic |invalid frame|no brokers available|no servers available|no responders available|\
         broker may not be available|not connected|disconnect exception|error sending request|\
         sending request for url|body from connection|communicating with the server|no close frame|\
         check your connection|internet connection|did not get any data blocks|network dropped|on socket|\
         through socket|dial unix|dial tcp|certificate verify failed|self signed|\
         certificate signed by unknown authority|valid certification path|ssl error|sslerror|ssl routines|\
         ssl handshake|tls handshake|handshake failure|handshake failed|wrong version number|ssl connection|\
         ssl certificate|ssl validation|ssl protocol|tls error|tls alert|ocsp|incorrect header check|\
         internet disconnected|end of file|certificate chain|issuer cert|cert has expired|\
         cert not yet valid|closing transport|protocol banner|request body to server|writing to server|\
         unexpected server response|ssh layer|content unencoding|client is closed|stream error received|\
         stream error stream id|received from peer|tls connection|not support tls|not support ssl|\
         communications link|link failure|response ended prematurely|brokers are down|broker is down|\
         incomplete message|incompletemessage|refused stream|http response to https client|\
         malformed http response|plain text request|plain http request|transport closed|closed channel exception|\
         transport endpoint|peer certificate|first certificate|fatal alert|verify certificate|ssl syscall|\
         eof detected|abruptly|upstream connect|live upstream|hung up|did not receive any response|\
         no response from|failed to respond|stream was reset|end of stream|transport connection|\
         establishing a connection|cant reach|cannot reach|could not reach|unable to reach|failed to reach|\
         empty response|target closed|response not received|no http response|tcp read failed|\
         exception io exception|unavailable io exception|14 unavailable|code unavailable|\
         exception unavailable|received no data|unreachable host|remote host|origin is unreachable|\
         web server is down|remote peer|from the peer|connection unexpectedly|bad connection|\
         idle connection|no listener|connection loss|revive channel|on closed connection|channel is not open|\
         connection is not open|write request body|h2 protocol|protocol error unexpected|reconnect|\
         typeerror terminated|error aborted $|stale connection|unexpected close|unexpectedly closed|closed unexpectedly|reading from stream|sending to the backend|living connections|configured nodes are available",
    )
    .or_near(&[
        (
            "connection connections connect socket websocket tunnel channel peer tcp tls ssl",
            "closed lost terminated terminating dropped reset refused aborted broken disconnected \
             interrupted failed failure dead",
        ),
        ("recv receive receiving receiver send sending read reading", "peer disconnected reset"),
        (
            "server host hosts remote peer broker brokers node nodes daemon upstream cluster listener",
            "disconnected unreachable reachable hung refused closed reset down",
        ),
        ("broker brokers transport", "fail* unavailable"),
        ("certificate certificates cert", "invalid expired untrusted unknown verify self mismatch"),
        ("network wifi internet", "unreachable down disconnected lost failure unavailable offline"),
    ])
    .or_number(&[
        (
            Numbering::Errno,
            &[
                32, 50, 51, 54, 61, 64, 65, 71, 99, 100, 101, 102, 103, 104, 107, 108, 111, 112, 113, 10050,
                10051, 10052, 10053, 10054, 10057, 10058, 10061, 10064, 10065,
            ],
        ),
        (
            Numbering::Windows,
            &[
                53, 59, 64, 67, 109, 232, 233, 1225, 1226, 1231, 1232, 1236, 10050, 10051, 10052, 10053,
                10054, 10057, 10058, 10061, 10064, 10065,
            ],
        ),
        (
            Numbering::Curl,
            &[7, 16, 18, 35, 51, 52, 55, 56, 58, 59, 60, 61, 77, 80, 82, 83, 90, 91, 92, 95, 96, 97],
        ),
    ])
    .or_status(&[521, 523, 525, 526]),
    says(FailureCode::ConnectionFailed, "connection failed|connection is bad").unless("fatal "),
    // A status shows that the transport works.
    says(FailureCode::ConnectionFailed, "transport error").unless("transporterror 4|transporterror 5"),
    says(FailureCode::NetworkTimeout, "timeout").unless("lock wait timeout|statement timeout|lock timeout|nowait"),
    // The program is wrong, whatever it works with.
    says(
        FailureCode::Unknown,
        "modulenotfounderror|no module named|attributeerror|nameerror|indexerror|keyerror|assertionerror|\
         nullpointerexception|panicked at|recursionerror|zerodivisionerror|syntaxerror|importerror",
    ),
];
