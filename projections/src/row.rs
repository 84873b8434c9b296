//! How values of ours come back out of columns.

use std::fmt::Display;
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::generation::QueryError;
use crate::projection::Name;
use crate::sql::SqlError;

/// An id, or another thing with a text of its own.
pub(crate) fn text<T: FromStr<Err: Display>>(name: Name, column: &str) -> Result<T, QueryError> {
    column.parse().map_err(|error: T::Err| QueryError::Row { name, reason: error.to_string() })
}

/// What was stored as JSON.
pub(crate) fn json<T: DeserializeOwned>(name: Name, column: &str) -> Result<T, QueryError> {
    serde_json::from_str(column).map_err(|error| QueryError::Row { name, reason: error.to_string() })
}

/// The same, read by the projection that stored it. What was stored by this revision can be read by it.
pub(crate) fn stored<T: DeserializeOwned>(column: &str) -> Result<T, SqlError> {
    serde_json::from_str(column).map_err(|error| SqlError::Damaged(error.to_string()))
}

/// The JSON of something whose keys are texts.
pub(crate) fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("what is stored has text keys only, so it can be written as JSON")
}

/// The stored name of a variant without fields.
pub(crate) fn variant<T: Serialize>(value: &T) -> String {
    to_json(value).trim_matches('"').to_owned()
}

pub(crate) fn store_error(name: Name, source: SqlError) -> QueryError {
    QueryError::Store { name, source }
}
