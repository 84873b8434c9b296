//! A statement with its values, for either database.

use sqlx::{Arguments, Database, Encode, SqlSafeStr, SqlStr, Type};
use uuid::Uuid;

use super::SqlError;

/// A value that both drivers can bind.
#[derive(Debug)]
pub(crate) enum Value {
    Boolean(Option<bool>),
    Integer(Option<i64>),
    Float(f64),
    Text(Option<String>),
    Id(Uuid),
}

macro_rules! value_from {
    ($($type:ty: $name:ident => $value:expr;)*) => {
        $(impl From<$type> for Value {
            fn from($name: $type) -> Self {
                $value
            }
        })*
    };
}

value_from! {
    Option<bool>: boolean => Self::Boolean(boolean);
    i64: number => Self::Integer(Some(number));
    Option<i64>: number => Self::Integer(number);
    f64: number => Self::Float(number);
    &str: text => Self::Text(Some(text.to_owned()));
    String: text => Self::Text(Some(text));
    Option<&str>: text => Self::Text(text.map(str::to_owned));
    Option<String>: text => Self::Text(text);
    Uuid: id => Self::Id(id);
}

/// A statement and its bound values.
#[derive(Debug)]
pub(crate) struct Statement {
    sql: SqlStr,
    values: Vec<Value>,
}

impl Statement {
    pub(crate) fn new(sql: &'static str) -> Self {
        Self { sql: sql.into_sql_str(), values: Vec::new() }
    }

    /// Binds the next parameter.
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// The text, and the values as one driver takes them.
    pub(super) fn split<D: Database<Arguments: Arguments<Database = D>>>(
        self,
    ) -> Result<(SqlStr, D::Arguments), SqlError>
    where
        Option<bool>: for<'q> Encode<'q, D> + Type<D>,
        Option<i64>: for<'q> Encode<'q, D> + Type<D>,
        Option<String>: for<'q> Encode<'q, D> + Type<D>,
        f64: for<'q> Encode<'q, D> + Type<D>,
        Uuid: for<'q> Encode<'q, D> + Type<D>,
    {
        let mut arguments = D::Arguments::default();
        for value in self.values {
            match value {
                Value::Boolean(boolean) => arguments.add(boolean),
                Value::Integer(number) => arguments.add(number),
                Value::Float(number) => arguments.add(number),
                Value::Text(text) => arguments.add(text),
                Value::Id(id) => arguments.add(id),
            }
            .map_err(|error| SqlError::Refused(sqlx::Error::Encode(error)))?;
        }
        Ok((self.sql, arguments))
    }
}

/// The numbers of rows that the statements of [`ManyRows`] hold. There are only a few sizes, so that the cache of
/// prepared statements hits, and no large ones, because the driver looks up each parameter's name among all previous
/// ones: 256 rows of ten columns were written at half the speed.
const CHUNKS: [usize; 3] = [24, 4, 1];

/// A statement over any number of rows. No two rows may have the same key: PostgreSQL would reject that.
#[derive(Debug)]
pub(crate) struct ManyRows([String; CHUNKS.len()]);

impl ManyRows {
    /// `head (…), (…), … tail`, with `columns` numbered parameters a row.
    pub(crate) fn new(head: &str, columns: usize, tail: &str) -> Self {
        Self(CHUNKS.map(|rows| rows_text(head, rows, columns, tail)))
    }

    /// Takes as many rows from the front as one statement holds.
    pub(crate) fn take<'r, T>(&'static self, rows: &mut &'r [T]) -> Option<(Statement, &'r [T])> {
        let fits = |chunk: &&usize| **chunk <= rows.len();
        let (chunk, text) = CHUNKS.iter().zip(&self.0).find(|(chunk, _)| fits(chunk))?;
        let (chunk, rest) = rows.split_at(*chunk);
        *rows = rest;
        Some((Statement::new(text), chunk))
    }

    #[cfg(test)]
    pub(crate) fn texts(&self) -> &[String] {
        &self.0
    }
}

/// The text of a statement over many rows.
fn rows_text(head: &str, rows: usize, columns: usize, tail: &str) -> String {
    let mut text = String::with_capacity(head.len() + tail.len() + rows * columns * 6);
    text.push_str(head);
    for row in 0..rows {
        text.push_str(if row == 0 { " (" } else { ", (" });
        for column in 0..columns {
            let comma = if column == 0 { "" } else { "," };
            text.push_str(&format!("{comma}${}", row * columns + column + 1));
        }
        text.push(')');
    }
    text.push(' ');
    text.push_str(tail);
    text
}
