//! Which events of the whole log a client wants.

use event_schemas::envelope::Recorded;
use event_schemas::stream::STREAM_NAME_MAX;
use fancy_regex::{Regex, RegexBuilder};

use super::proto::event_store::client::streams::read_req::options::FilterOptions;
use super::proto::event_store::client::streams::read_req::options::filter_options::{self, Expression};
use super::refusal::Refusal;

/// The longest expression, in bytes.
const EXPRESSION_BYTES_MAX: usize = 4096;

const PREFIXES_MAX: usize = 256;

/// How often a match may go back before it is given up. Expressions look ahead, so their cost is bounded by this alone.
const BACKTRACKS_MAX: usize = 5_000;

/// What a compiled expression may take, in bytes.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// What is looked at, and what it must be.
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
            None => Err(Refusal::Malformed("the filter says neither stream nor type")),
        }
    }

    /// As much of it as the log's own index can do.
    pub(super) fn of_log(&self) -> crate::Filter {
        match self {
            Self::Stream(Pattern::Prefixes(prefixes)) => crate::Filter::StreamPrefixes(prefixes.clone()),
            Self::Stream(Pattern::Expression(_)) | Self::Type(_) | Self::All => crate::Filter::All,
        }
    }

    /// # Errors
    /// The expression goes back too often on this event's name.
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
