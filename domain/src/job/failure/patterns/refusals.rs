//! Refusals of services: too many requests, and credentials.

use event_schemas::failure::FailureCode;

use super::{Pattern, says};

pub(super) const ROWS: &[Pattern] = &[
    // The deadline may have passed while the caller waited for connections.
    says(FailureCode::NetworkTimeout, "code deadline exceeded|code deadlineexceeded|context deadline exceeded"),
    says(
        FailureCode::RateLimited,
        "rate limit|ratelimit|too many request|limit reached|limit has been reached|play limit|\
         limit exceeded|limit exhausted|too many concurrent|too many simultaneous|too many pending|throttl|\
         slow down |reduce your request rate|reduce request rate|rate exceeded|rate is exceeded|\
         quota exceeded|quota reached|insufficient quota|over quota|request limit|request quota|\
         throughput exceeded|throughput for the table was exceeded|resource exhausted|\
         resource has been exhausted|requests per|calls per|tokens per min|concurrency limit|\
         concurrent request|concurrent connection|concurrent stream|concurrent job|parallel requests|\
         number of allowed parallel|submit limit|request capacity|account limit|server busy|usage limit|daily limit|\
         hourly limit|monthly limit|weekly limit|per minute limit|per day limit|limit per minute|\
         limit per second|limit per hour|limit per day|over query limit|enhance your calm|flood wait|\
         over limit|spike arrest|exceeded the limit of|making requests too|rejected execution of|sending requests too|\
         too many messages|too many calls|too many attempts|too many login",
    )
    .or_near(&[
        ("quota quotas allowance", "exceed* exhausted insufficient reached depleted over used"),
        ("connections sessions", "exceeded"),
        (
            "many",
            "requests request calls call operations operation messages writes attempts uploads downloads \
             tokens jobs transcriptions transactions streams",
        ),
        ("rate rates", "exceed* limit limited limits limiting high"),
        ("api usage hourly daily monthly minute tpm rpm rpd", "limit limits"),
    ])
    .or_status(&[420, 429, 509])
    .unless(
        "disk quota|disk usage|storage quota|storage limit|out of memory|oom |allocat|\
         received message larger|error rate exceeds|sample rate|bit rate|bitrate|frame rate|\
         simultaneous queries|size limit|memory limit|header limit|length limit|recursion limit|heap limit|\
         descriptor limit|depth limit|redirect|retries per request|retry limit|restart limit|backoff limit|\
         context length|context window|token limit|body is larger|payload limit|payload size|\
         character limit|row limit|file limit|upload limit|limit the request|local storage|emptydir|\
         buffer limit|operations in txn|limit of total fields|time limit|walltime|memlimit|\
         runlimit|killed mem|memory usage",
    ),
    says(
        FailureCode::ServiceAuthentication,
        "unauthorized|unauthorised|unauthenticated|not authenticated|authentication fail|\
         authentication error|authentication required|authentication is required|authentication version|\
         time too skewed|clock skew|authentication token|authentication unsuccessful|\
         authentication rejected|failed to authenticate|az login|auth login|sso login|docker login|\
         npm login|cli login|bad authentication|unable to authenticate|could not authenticate|\
         must be authenticated|refused not authori|requires authentication|active account|not logged in to|\
         cannot authenticate|reauthenticate|invalid auth|auth fail|auth error|api key must|\
         api key not valid|api key client option must be set|no api key|authentication info|cookie required|\
         requested scopes|scram |resolve authentication method|determine credentials|no credentials|\
         invalid api key|invalid x api key|incorrect api key|missing api key|api key is|api key invalid|\
         api key missing|credentials were not found|credentials not found|could not load credentials|\
         access key id|signature does not match|signature mismatch|request signature we calculated|\
         invalid signature|invalid oauth|invalid o auth|invalid bearer|bearer token|subscription key|\
         invalid token|token missing|token is missing|missing token|token is invalid|token is not valid|\
         token invalid|included in the request is|token is required|token required|authorization token|\
         auth token|obtain token|token request failed|session has expired|session expired|\
         session associated with|invalid grant|invalid client|login was refused|login failed|\
         login incorrect|logon|wrongpass|noauth |authorization violation|authorization failed|\
         authorization error|authorization header|password authentication|no pg hba|role does not exist|\
         no hba conf|access denied for user|not a bot|youre not a robot|captcha|payment required|\
         billing account|enable billing|billing is|not enough credits|credit balance|insufficient balance|\
         insufficient credits|insufficient funds|insufficient scope|subscription expired|\
         account is suspended|account suspended|account is disabled|account has been disabled|\
         account deactivated|account is not active|account has been deactivated|user is not active|\
         provide an api key|provide your api key|api key provided|access credentials|o auth client|\
         client secret|username and password not accepted|could not read username|terminal prompts disabled|\
         no supported authentication methods|publickey authentication|kerberos|host key verification failed|\
         mfa |two factor",
    )
    .or_near(&[
        (
            "credential credentials password passwd username apikey jwt oauth login",
            "invalid incorrect expired wrong missing rejected refused bad revoked unable locate failed \
             mismatch malformed unknown stale retrieving loading refresh",
        ),
        ("token tokens key keys secret cookie cookies", "expired revoked rejected unauthorized deactivated"),
        ("apikey credential credentials", "required valid"),
        ("token", "invalid missing fetch obtain acquire refresh refreshing"),
        ("secret", "invalid wrong incorrect missing expired"),
        ("signature", "invalid expired mismatch match wrong"),
        (
            "sso authorization authentication",
            "expired failed invalid missing required incorrect wrong rejected",
        ),
    ])
    .or_status(&[401, 402, 407, 419, 498, 511])
    .unless(
        "syntax error|unexpected token|not authorized to perform|unauthorized for user|authorized to access|\
         unauthorized access to|unauthorized access exception|unauthorizedaccess|\
         authorization exception|cluster authorization|not authorized on|no such key|foreign key|duplicate key|duplicate entry|\
         signature of|key error|keyerror",
    ),
    says(FailureCode::ServiceAuthentication, "forbidden")
        .unless("does not have|permission|is forbidden|read only allow delete"),
];
