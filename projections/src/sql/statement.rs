//! Statements with their values, for either database.

use sqlx::{Arguments, AssertSqlSafe, Database, Encode, Postgres, SqlSafeStr, SqlStr, Type};
use uuid::Uuid;

use super::SqlError;

/// The bytes of a page of SQLite.
const PAGE_BYTES: usize = 4096;

/// A value that both databases can store.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Boolean(Option<bool>),
    Integer(Option<i64>),
    Float(f64),
    Text(Option<String>),
    Id(Option<Uuid>),
}

impl Value {
    fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.as_ref().map_or(0, String::len),
            Self::Boolean(_) | Self::Integer(_) | Self::Float(_) | Self::Id(_) => size_of::<Self>(),
        }
    }
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
    Uuid: id => Self::Id(Some(id));
    Option<Uuid>: id => Self::Id(id);
}

/// A statement and its bound values.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(super) sql: &'static str,
    pub(super) values: Vec<Value>,
}

/// More values than nearly all statements have.
const VALUES: usize = 12;

impl Statement {
    pub(crate) fn new(sql: &'static str) -> Self {
        Self { sql, values: Vec::with_capacity(VALUES) }
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
        Option<Uuid>: for<'q> Encode<'q, D> + Type<D>,
    {
        Ok((self.sql.into_sql_str(), arguments::<D>(self.values)?))
    }
}

fn arguments<D: Database<Arguments: Arguments<Database = D>>>(
    values: impl IntoIterator<Item = Value>,
) -> Result<D::Arguments, SqlError>
where
    Option<bool>: for<'q> Encode<'q, D> + Type<D>,
    Option<i64>: for<'q> Encode<'q, D> + Type<D>,
    Option<String>: for<'q> Encode<'q, D> + Type<D>,
    f64: for<'q> Encode<'q, D> + Type<D>,
    Option<Uuid>: for<'q> Encode<'q, D> + Type<D>,
{
    let mut arguments = D::Arguments::default();
    for value in values {
        match value {
            Value::Boolean(boolean) => arguments.add(boolean),
            Value::Integer(number) => arguments.add(number),
            Value::Float(number) => arguments.add(number),
            Value::Text(text) if D::NAME == Postgres::NAME => arguments.add(text.map(storable)),
            Value::Text(text) => arguments.add(text),
            Value::Id(id) => arguments.add(id),
        }
        .map_err(|error| SqlError::from(sqlx::Error::Encode(error)))?;
    }
    Ok(arguments)
}

/// The text as PostgreSQL accepts it, which stores no U+0000. Names and reasons in events may contain it.
fn storable(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// The writes of one transaction, in their order.
#[derive(Debug, Default)]
pub(crate) struct Batch(Vec<Write>);

/// One or more rows that the same statement writes.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) sql: &'static str,
    /// The number of values of each row.
    pub(super) columns: usize,
    /// The values of all rows, one row after the other.
    pub(super) values: Vec<Value>,
}

impl Batch {
    /// Adds a row. No two consecutive rows of an insert that updates may have the same key: PostgreSQL rejects that.
    pub(crate) fn add(&mut self, row: Statement) {
        match self.0.last_mut() {
            Some(write) if std::ptr::eq(write.sql, row.sql) => write.values.extend(row.values),
            _ => self.0.push(Write { sql: row.sql, columns: row.values.len(), values: row.values }),
        }
    }

    /// Adds rows that the same statement writes.
    pub(crate) fn add_all(&mut self, mut rows: impl ExactSizeIterator<Item = Statement>) {
        if let Some(mut first) = rows.next() {
            // Many rows would be moved several times while their number grows.
            first.values.reserve_exact(first.values.len() * rows.len());
            self.add(first);
            rows.for_each(|row| self.add(row));
        }
    }

    pub(super) fn into_writes(self) -> Vec<Write> {
        self.0
    }

    pub(super) fn writes(&self) -> &[Write] {
        &self.0
    }

    /// The bytes that the transaction writes, approximately: each row changes a page of its table and one of an index.
    pub(super) fn bytes(&self) -> usize {
        let bytes = |write: &Write| {
            let rows = write.values.len() / write.columns.max(1);
            rows * 2 * PAGE_BYTES + write.values.iter().map(Value::bytes).sum::<usize>()
        };
        self.0.iter().map(bytes).sum()
    }
}

/// The numbers of rows that one statement writes or reads on PostgreSQL. There are only a few sizes, so that the cache of
/// prepared statements hits.
const CHUNKS: [usize; 3] = [128, 16, 1];

impl Write {
    /// The statements for PostgreSQL, each over many rows, because each costs a round trip.
    pub(super) fn into_postgres(
        self,
    ) -> impl Iterator<Item = Result<(SqlStr, sqlx::postgres::PgArguments), SqlError>> {
        let is_insert = self.sql.starts_with("INSERT");
        let columns = self.columns.max(1);
        let mut values = self.values.into_iter();
        std::iter::from_fn(move || {
            let left = values.len() / columns;
            let fits = |chunk: &usize| *chunk <= left && (is_insert || *chunk == 1);
            let rows = CHUNKS.into_iter().find(fits)?;
            let sql = AssertSqlSafe(over_rows(self.sql, columns, rows)).into_sql_str();
            let arguments = arguments::<Postgres>(values.by_ref().take(rows * columns));
            Some(arguments.map(|arguments| (sql, arguments)))
        })
    }
}

/// The text of an insert of one row, `… VALUES ($1, …) …`, for many rows.
fn over_rows(sql: &'static str, columns: usize, rows: usize) -> String {
    let parts = sql.split_once(" VALUES (").and_then(|(head, rest)| Some((head, rest.split_once(')')?)));
    let Some((head, (row, tail))) = parts else { return sql.to_owned() };
    let rows: Vec<String> =
        (0..rows).map(|number| format!("({})", renumber(row, number * columns))).collect();
    format!("{head} VALUES {}{tail}", rows.join(", "))
}

/// The queries for all keys on PostgreSQL, each with the number of its first key.
pub(super) fn for_keys(
    sql: &'static str,
    keys: &[Vec<Value>],
) -> impl Iterator<Item = (usize, Result<(SqlStr, sqlx::postgres::PgArguments), SqlError>)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let rest = keys.get(start..)?;
        let count = CHUNKS.into_iter().find(|chunk| *chunk <= rest.len())?;
        let columns = rest.first().map_or(0, Vec::len);
        let text = AssertSqlSafe(over_keys(sql, columns, count)).into_sql_str();
        let values = arguments::<Postgres>(rest.iter().take(count).flatten().cloned());
        start += count;
        Some((start - count, values.map(|values| (text, values))))
    })
}

/// A query over many keys that returns the number of each key with its value: one select for each key. The query reads one
/// column.
fn over_keys(sql: &'static str, columns: usize, keys: usize) -> String {
    let columns_of = sql.strip_prefix("SELECT ").unwrap_or(sql);
    let select = |key: usize| renumber(&format!("SELECT CAST({key} AS BIGINT), {columns_of}"), key * columns);
    let selects: Vec<String> = (0..keys).map(select).collect();
    selects.join(" UNION ALL ")
}

/// Raises the numbers of all parameters.
fn renumber(sql: &str, by: usize) -> String {
    let mut parts = sql.split('$');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|letter: char| letter.is_ascii_digit());
        let number = part[..part.len() - rest.len()].parse::<usize>().unwrap_or_default();
        text.push_str(&format!("${}{rest}", number + by));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insert_over_two_rows_numbers_all_parameters() {
        let sql = "INSERT INTO t (a, b) VALUES ($1, $2) ON CONFLICT (a) DO NOTHING";
        let expected = "INSERT INTO t (a, b) VALUES ($1, $2), ($3, $4) ON CONFLICT (a) DO NOTHING";
        assert_eq!(over_rows(sql, 2, 2), expected);
    }

    #[test]
    fn query_over_two_keys_returns_number_of_each_key() {
        let expected = "SELECT CAST(0 AS BIGINT), v FROM t WHERE a = $1 AND b = $2 UNION ALL \
             SELECT CAST(1 AS BIGINT), v FROM t WHERE a = $3 AND b = $4";
        assert_eq!(over_keys("SELECT v FROM t WHERE a = $1 AND b = $2", 2, 2), expected);
    }

    #[test]
    fn rows_of_same_statement_are_one_write() {
        let mut batch = Batch::default();
        let (first, second) = ("INSERT INTO t (a) VALUES ($1)", "DELETE FROM t WHERE a = $1");
        for sql in [first, first, second, first] {
            batch.add(Statement::new(sql).bind(1_i64));
        }
        let rows = batch.into_writes().iter().map(|write| write.values.len()).collect::<Vec<_>>();
        assert_eq!(rows, [2, 1, 1]);
    }
}
