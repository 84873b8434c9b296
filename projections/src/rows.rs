//! What the read models with rows share: the contract, the changed and recently used rows, and pages of a list.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::future::Future;
use std::hash::Hash;

use domain::user::interactions::Interactions;
use event_schemas::envelope::Envelope;
use event_schemas::ids::{Position, SubjectId, Tenant};
use event_schemas::stream::{Category, StreamId};
use serde::de::DeserializeOwned;

use crate::generation::{Generation, QueryError};
use crate::projection::{Name, Projection, StorePolicy};
use crate::row::{parse_json, parse_stored};
use crate::sql::{Batch, Db, Ddl, Row, SqlError, Statement, Value};

/// A read model whose readers see rows only.
pub(crate) trait RowModel: fmt::Debug + Default + Send + Sync + 'static {
    const NAME: Name;
    const REVISION: u32;
    const DDL: Ddl;
    const CATEGORIES: &'static [Category];

    /// Whether its rows depend on how interactions count. They are rebuilt when that changes.
    const COUNTS_INTERACTIONS: bool = false;

    /// Sets how interactions count, before the first event.
    fn configure(&mut self, _settings: &Interactions) {}

    fn fold(&mut self, db: &Db, events: &[&Envelope]) -> impl Future<Output = Result<(), SqlError>> + Send;

    /// The stream whose events an erased person's rows come from.
    const ERASED_STREAM: fn(&Tenant, SubjectId) -> StreamId = StreamId::user;

    /// See [`Projection::forget`].
    fn forget(
        &mut self,
        _db: &Db,
        _erasure: &Envelope,
        _earlier: &[Envelope],
    ) -> impl Future<Output = Result<(), SqlError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Adds the rows that have changed since the last call of [`on_stored`](Self::on_stored).
    fn store(&self, batch: &mut Batch);

    fn has_changes(&self) -> bool;

    fn on_stored(&mut self);

    fn on_published(&mut self);
}

impl<M: RowModel> Projection for M {
    const NAME: Name = M::NAME;
    const REVISION: u32 = M::REVISION;
    const DDL: Ddl = M::DDL;
    const CATEGORIES: &'static [Category] = M::CATEGORIES;
    const STORE: StorePolicy = StorePolicy::EachBatch;

    type View = ();
    type Shared = Interactions;

    fn revision(settings: &Interactions) -> u32 {
        if M::COUNTS_INTERACTIONS { M::REVISION ^ settings.fingerprint() } else { M::REVISION }
    }

    fn shared(settings: &Interactions) -> Interactions {
        *settings
    }

    async fn open(_: &Db, settings: &Interactions, _: Position) -> Result<Self, SqlError> {
        let mut model = Self::default();
        model.configure(settings);
        Ok(model)
    }

    fn view(&self) {}

    async fn fold(&mut self, db: &Db, events: &[&Envelope], _: Position) -> Result<(), SqlError> {
        RowModel::fold(self, db, events).await
    }

    const ERASED_STREAM: fn(&Tenant, SubjectId) -> StreamId = M::ERASED_STREAM;

    async fn forget(&mut self, db: &Db, erasure: &Envelope, earlier: &[Envelope]) -> Result<(), SqlError> {
        RowModel::forget(self, db, erasure, earlier).await
    }

    async fn store(&mut self, batch: &mut Batch) -> Result<(), SqlError> {
        RowModel::store(self, batch);
        Ok(())
    }

    fn has_changes(&self) -> bool {
        RowModel::has_changes(self)
    }

    fn on_stored(&mut self) {
        RowModel::on_stored(self);
    }

    fn on_published(&mut self) {
        RowModel::on_published(self);
    }
}

/// A table with one value for each key, stored as JSON.
pub(crate) trait Table: fmt::Debug + Send + Sync + 'static {
    type Key: Clone + Eq + Hash + Ord + fmt::Debug + Send + Sync;
    type Value: DeserializeOwned + fmt::Debug + Send + Sync;

    /// Reads the JSON of one key.
    const ONE: &'static str;

    /// The parameters of [`ONE`](Self::ONE).
    fn key(key: &Self::Key) -> Vec<Value>;

    /// The memory of a value's texts, where they can be large.
    fn text_bytes(_: &Self::Value) -> usize {
        0
    }

    /// Writes the row of a key; without a value, deletes it, if that can happen.
    fn write(key: &Self::Key, value: Option<&Self::Value>) -> Option<Statement>;
}

/// A read model that is one such table.
pub(crate) trait TableModel: Table + Sized {
    const NAME: Name;
    const REVISION: u32;
    const DDL: Ddl;
    const CATEGORIES: &'static [Category];

    fn fold(
        rows: &mut Rows<Self>,
        db: &Db,
        events: &[&Envelope],
    ) -> impl Future<Output = Result<(), SqlError>> + Send;
}

impl<T: TableModel> RowModel for Rows<T> {
    const NAME: Name = T::NAME;
    const REVISION: u32 = T::REVISION;
    const DDL: Ddl = T::DDL;
    const CATEGORIES: &'static [Category] = T::CATEGORIES;

    async fn fold(&mut self, db: &Db, events: &[&Envelope]) -> Result<(), SqlError> {
        T::fold(self, db, events).await
    }

    fn store(&self, batch: &mut Batch) {
        Rows::store(self, batch);
    }

    fn has_changes(&self) -> bool {
        Rows::has_changes(self)
    }

    fn on_stored(&mut self) {
        Rows::on_stored(self);
    }

    fn on_published(&mut self) {
        Rows::on_published(self);
    }
}

/// The number of rows after whose use the rows that were not among them are forgotten.
const RECENT_MAX: usize = 4096;

/// The bytes of large texts after whose use the same is done.
const RECENT_TEXT_BYTES_MAX: usize = 16 << 20;

/// The changed and the recently used rows of a table. All others are read from the database.
#[derive(Debug)]
pub(crate) struct Rows<T: Table> {
    recent: Cached<T>,
    /// The rows that were recent before.
    earlier: Cached<T>,
    /// The keys of recent rows that differ from the database.
    changed: BTreeSet<T::Key>,
    /// The bytes of the texts of recent rows, counted with each use and each change.
    text_bytes: usize,
}

/// None for a key that has no row.
type Cached<T> = HashMap<<T as Table>::Key, Option<Box<<T as Table>::Value>>>;

impl<T: Table> Default for Rows<T> {
    fn default() -> Self {
        Self { recent: HashMap::new(), earlier: HashMap::new(), changed: BTreeSet::new(), text_bytes: 0 }
    }
}

impl<T: Table> Rows<T> {
    /// Loads the rows of all these keys, so that [`get`](Self::get) and [`change`](Self::change) find them.
    pub(crate) async fn load(
        &mut self,
        db: &Db,
        keys: impl IntoIterator<Item = T::Key>,
    ) -> Result<(), SqlError> {
        let mut missing = BTreeSet::new();
        for key in keys {
            if self.recent.contains_key(&key) {
                continue;
            }
            match self.earlier.remove(&key) {
                Some(value) => {
                    self.text_bytes += value.as_deref().map_or(0, T::text_bytes);
                    self.recent.insert(key, value);
                }
                None => drop(missing.insert(key)),
            }
        }
        let stored = db.lookup(T::ONE, missing.iter().map(T::key).collect()).await?;
        for (key, json) in missing.into_iter().zip(stored) {
            let value: Option<Box<T::Value>> = json.as_deref().map(parse_stored).transpose()?.map(Box::new);
            self.text_bytes += value.as_deref().map_or(0, T::text_bytes);
            self.recent.insert(key, value);
        }
        Ok(())
    }

    pub(crate) fn get(&self, key: &T::Key) -> Option<&T::Value> {
        self.recent.get(key)?.as_deref()
    }

    /// The value of a loaded row that is being changed.
    pub(crate) fn change(&mut self, key: &T::Key) -> Option<&mut T::Value> {
        let value = self.recent.get_mut(key)?.as_deref_mut()?;
        if !self.changed.contains(key) {
            self.changed.insert(key.clone());
        }
        Some(value)
    }

    /// Sets the value of a key; without a value, its row is deleted.
    pub(crate) fn set(&mut self, key: T::Key, value: Option<T::Value>) {
        self.changed.insert(key.clone());
        self.recent.insert(key, value.map(Box::new));
    }

    /// The changed rows, by their keys.
    pub(crate) fn store(&self, batch: &mut Batch) {
        for row in self.changed.iter().filter_map(|key| T::write(key, self.get(key))) {
            batch.add(row);
        }
    }

    pub(crate) fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Frees the memory that a catch-up needed. Everything is stored.
    pub(crate) fn on_published(&mut self) {
        (self.recent, self.earlier) = (Cached::<T>::new(), Cached::<T>::new());
        self.text_bytes = 0;
    }

    pub(crate) fn on_stored(&mut self) {
        let changed = std::mem::take(&mut self.changed);
        let texts = changed.iter().filter_map(|key| self.get(key)).map(T::text_bytes);
        self.text_bytes += texts.sum::<usize>();
        if self.recent.len() >= RECENT_MAX || self.text_bytes >= RECENT_TEXT_BYTES_MAX {
            self.earlier = std::mem::take(&mut self.recent);
            self.text_bytes = 0;
        }
    }
}

impl<V> Generation<V> {
    /// Lists at most `limit` rows, and the cursor of the next page. The last parameter of the statement is its limit.
    pub(crate) async fn page<R: Row, T, C>(
        &self,
        name: Name,
        statement: Statement,
        limit: u32,
        parse: impl Fn(R) -> Result<T, QueryError>,
        cursor: impl Fn(&T) -> C,
    ) -> Result<(Vec<T>, Option<C>), QueryError> {
        // One more row than the limit shows whether there is a next page.
        let statement = statement.bind(i64::from(limit) + 1);
        let rows: Vec<R> = self.db.all(statement).await.map_err(|error| self.query_error(name, error))?;
        let has_more = rows.len() > limit as usize;
        let items = rows.into_iter().take(limit as usize).map(parse).collect();
        let items: Vec<T> = self.parsed(items)?;
        let next = items.last().filter(|_| has_more).map(cursor);
        Ok((items, next))
    }

    /// The value that the first column of a row contains as JSON.
    pub(crate) async fn one<T: DeserializeOwned>(
        &self,
        name: Name,
        statement: Statement,
    ) -> Result<Option<T>, QueryError> {
        self.one_row(name, statement, |row| json(name, row)).await
    }

    /// The value of a row.
    pub(crate) async fn one_row<R: Row, T>(
        &self,
        name: Name,
        statement: Statement,
        parse: impl FnOnce(R) -> Result<T, QueryError>,
    ) -> Result<Option<T>, QueryError> {
        let row: Option<R> =
            self.db.optional(statement).await.map_err(|error| self.query_error(name, error))?;
        self.parsed(row.map(parse).transpose())
    }
}

/// Parses a row whose only column is JSON.
pub(crate) fn json<T: DeserializeOwned>(name: Name, (text,): (String,)) -> Result<T, QueryError> {
    parse_json(name, &text)
}
