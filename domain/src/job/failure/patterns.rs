//! The table of recognised errors, tried from top to bottom: the first match wins.
//!
//! The order is what the message says happened, from the most specific to the least; errors that it only
//! mentions with another come after that one. Which service it happened to is found apart.

mod hints;
mod network;
mod refusals;
mod requests;
mod resources;

use event_schemas::failure::{FailureCode, Service};

use super::text::{Numbering, Text};

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
    /// Numbers of errors of operating systems and programs, one of which is in the message.
    pub(super) numbers: &'static [(Numbering, &'static [u32])],
    /// Exit codes that identify the error without a message.
    pub(super) exit_codes: &'static [i64],
}

/// The service that the message names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Any,
    Only(Option<Service>),
}

const fn says(code: FailureCode, phrases: &'static str) -> Pattern {
    Pattern {
        code,
        phrases,
        near: &[],
        unless: "",
        statuses: &[],
        status_of: Named::Any,
        numbers: &[],
        exit_codes: &[],
    }
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

    const fn or_number(self, numbers: &'static [(Numbering, &'static [u32])]) -> Self {
        Self { numbers, ..self }
    }

    const fn or_exit(self, exit_codes: &'static [i64]) -> Self {
        Self { exit_codes, ..self }
    }

    /// Whether the row applies to an error.
    pub(super) fn matches(&self, text: &Text, service: Option<Service>, exit_code: Option<i64>) -> bool {
        let says = |phrases: &str| phrases.split('|').any(|phrase| !phrase.is_empty() && text.says(phrase));
        let is_of_service = match self.status_of {
            Named::Any => true,
            Named::Only(only) => only == service,
        };
        let has_status = || is_of_service && self.statuses.iter().any(|status| text.has_status(*status));
        let ended_so = exit_code.is_some_and(|code| self.exit_codes.contains(&code));
        let has_near = || self.near.iter().any(|(one, other)| text.has_near(one, other));
        let has_number = || {
            self.numbers
                .iter()
                .any(|(numbering, numbers)| numbers.iter().any(|n| text.has_number(*numbering, *n)))
        };
        ended_so || ((says(self.phrases) || has_near() || has_status() || has_number()) && !says(self.unless))
    }
}

/// The rows in their order.
pub(super) const PATTERNS: [&[Pattern]; 4] = [refusals::ROWS, requests::ROWS, resources::ROWS, network::ROWS];

/// The code of an error: that of the first row that applies, or else that of the service.
pub(super) fn code_of(text: &Text, service: Option<Service>, exit_code: Option<i64>) -> FailureCode {
    let hints = if service.is_none() { hints::ROWS } else { &[] };
    let mut rows = PATTERNS.into_iter().flatten().chain(hints);
    let row = rows.find(|row| row.matches(text, service, exit_code));
    row.map_or_else(|| of_service(service), |row| row.code)
}

/// The code if the message says nothing more than whose service failed.
pub(super) fn of_service(service: Option<Service>) -> FailureCode {
    match service {
        Some(Service::SpeechToText) => FailureCode::SpeechToTextService,
        Some(Service::Database) => FailureCode::DatabaseService,
        Some(Service::ObjectStorage) => FailureCode::ObjectStorageService,
        Some(Service::VideoSource | Service::Chat) | None => FailureCode::Unknown,
    }
}
