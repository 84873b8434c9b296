//! The settings of the limits of each caller.

use clap::Args;
use web::caller::CallerLimits;

/// The limits of each caller. On an open server only those that are set apply: its callers name themselves, so a limit
/// does not hold a caller that takes another name.
#[derive(Args, Clone, Copy, Debug)]
pub struct CallerSettings {
    /// The most requests of a caller in a minute; more get 429. Default: 60,000 with keys, no limit on an open server
    #[arg(long, env = "MATCHBOOK_CALLER_REQUESTS_PER_MINUTE", value_name = "NUMBER")]
    caller_requests_per_minute: Option<u32>,

    /// The most costly reads of a caller in a minute: `force_refresh`, `as_of` and `/audit`. Default: 600 with keys, no limit on an open server
    #[arg(long, env = "MATCHBOOK_CALLER_COSTLY_READS_PER_MINUTE", value_name = "NUMBER")]
    caller_costly_reads_per_minute: Option<u32>,

    /// The most open streams of a caller: server-sent events, WebSockets, lines of `/audit/events`, and long polls. Default: 1,000 with keys, no limit on an open server
    #[arg(long, env = "MATCHBOOK_CALLER_STREAMS_MAX", value_name = "NUMBER")]
    caller_streams_max: Option<u32>,
}

impl CallerSettings {
    /// The limits of a server that is open, or has keys.
    pub(crate) fn limits(self, is_open: bool) -> CallerLimits {
        let or_default = |set: Option<u32>, default| set.or((!is_open).then_some(default));
        CallerLimits {
            requests_per_minute: or_default(self.caller_requests_per_minute, 60_000),
            costly_reads_per_minute: or_default(self.caller_costly_reads_per_minute, 600),
            streams: or_default(self.caller_streams_max, 1_000),
        }
    }
}
