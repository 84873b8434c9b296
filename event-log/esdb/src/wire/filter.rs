//! Filters of reads and subscriptions of the whole log.

use event_schemas::envelope::Recorded;
use event_schemas::stream::STREAM_NAME_MAX;
use fancy_regex::{Regex, RegexBuilder};

use super::proto::event_store::client::streams::read_req::options::FilterOptions;
use super::proto::event_store::client::streams::read_req::options::filter_options::{self, Expression};
use super::refusal::Refusal;

/// The longest expression, in bytes.
const EXPRESSION_BYTES_MAX: usize = 4096;

const PREFIXES_MAX: usize = 256;

/// The most backtracking steps of one match. Expressions may have look-ahead, so only this limit bounds their cost.
const BACKTRACKS_MAX: usize = 5_000;

/// The memory limit of a compiled expression, in bytes.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// A filter by stream name or event type.
#[derive(Clone, Debug)]
pub(super) enum Filter {
    All,
    Stream(Pattern),
    Type(Pattern),
}

#[derive(Clone, Debug)]
pub(super) enum Pattern {
    Prefixes(Vec<String>),
    Expression(Box<Regex>),
}

impl Filter {
    pub(super) fn new(options: &FilterOptions) -> Result<Self, Refusal> {
        match &options.filter {
            Some(filter_options::Filter::StreamIdentifier(expression)) => {
                Ok(Self::Stream(Pattern::new(expression)?))
            }
            Some(filter_options::Filter::EventType(expression)) => Ok(Self::Type(Pattern::new(expression)?)),
            None => Err(Refusal::Malformed("the filter has neither stream names nor event types")),
        }
    }

    /// The part of the filter that the log can apply itself.
    pub(super) fn log_filter(&self) -> event_log::Filter {
        match self {
            Self::Stream(Pattern::Prefixes(prefixes)) => event_log::Filter::StreamPrefixes(prefixes.clone()),
            Self::Stream(Pattern::Expression(_)) | Self::Type(_) | Self::All => event_log::Filter::All,
        }
    }

    /// # Errors
    /// The expression exceeds the backtracking limit on this event's name.
    pub(super) fn matches(&self, event: &Recorded) -> Result<bool, Refusal> {
        match self {
            Self::All => Ok(true),
            Self::Stream(pattern) => pattern.matches(event.stream.as_str()),
            Self::Type(pattern) => pattern.matches(event.event_type.as_str()),
        }
    }
}

impl Pattern {
    fn new(expression: &Expression) -> Result<Self, Refusal> {
        if !expression.prefix.is_empty() {
            let long = expression.prefix.iter().any(|prefix| prefix.len() > STREAM_NAME_MAX);
            if long || expression.prefix.len() > PREFIXES_MAX {
                return Err(Refusal::Malformed("a filter has at most 256 prefixes of at most 4096 bytes"));
            }
            return Ok(Self::Prefixes(expression.prefix.clone()));
        }
        if expression.regex.len() > EXPRESSION_BYTES_MAX {
            return Err(Refusal::Malformed("a filter's expression has at most 4096 bytes"));
        }
        let compiled = RegexBuilder::new(&expression.regex)
            .backtrack_limit(BACKTRACKS_MAX)
            .delegate_size_limit(COMPILED_BYTES_MAX)
            .delegate_dfa_size_limit(COMPILED_BYTES_MAX)
            .build();
        compiled
            .map(|regex| Self::Expression(Box::new(regex)))
            .map_err(|error| Refusal::Expression(error.to_string()))
    }

    fn matches(&self, name: &str) -> Result<bool, Refusal> {
        match self {
            Self::Prefixes(prefixes) => Ok(prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()))),
            Self::Expression(regex) => {
                regex.is_match(name).map_err(|error| Refusal::Expression(error.to_string()))
            }
        }
    }
}
