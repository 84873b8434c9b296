//! Parsing and serialising the values of columns.

use std::fmt::Display;
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::generation::QueryError;
use crate::projection::Name;
use crate::sql::SqlError;

/// Parses an id or another value that is stored as text.
pub(crate) fn parse_text<T: FromStr<Err: Display>>(name: Name, column: &str) -> Result<T, QueryError> {
    column.parse().map_err(|error: T::Err| QueryError::InvalidRow { name, reason: error.to_string() })
}

/// Parses a value that is stored as JSON.
pub(crate) fn parse_json<T: DeserializeOwned>(name: Name, column: &str) -> Result<T, QueryError> {
    serde_json::from_str(column).map_err(|error| QueryError::InvalidRow { name, reason: error.to_string() })
}

/// Parses a value that the projection itself stored as JSON. If that fails, the file is damaged.
pub(crate) fn parse_stored<T: DeserializeOwned>(column: &str) -> Result<T, SqlError> {
    serde_json::from_str(column).map_err(|error| SqlError::Damaged(error.to_string()))
}

/// The JSON of a value whose map keys are strings.
pub(crate) fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("stored values have only string keys, so they can be written as JSON")
}

/// The serialised name of an enum variant without fields.
pub(crate) fn variant_name<T: Serialize>(value: &T) -> String {
    to_json(value).trim_matches('"').to_owned()
}

/// A `LIKE` pattern that finds the text literally and case-insensitively.
pub(crate) fn like(search: &str) -> String {
    let mut pattern = String::from("%");
    for letter in search.to_lowercase().chars() {
        if matches!(letter, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}
