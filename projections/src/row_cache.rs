//! A cache of recently used rows between batches, with a dirty flag for each.

use std::collections::BTreeMap;

/// The cache is cleared when it holds more rows than this. A row that is needed again is read from the file.
const ROWS_MAX: usize = 10_000;

#[derive(Debug)]
pub(crate) struct RowCache<K, V>(BTreeMap<K, CachedRow<V>>);

#[derive(Debug)]
struct CachedRow<V> {
    value: V,
    /// The row differs from the file.
    is_dirty: bool,
}

impl<K, V> Default for RowCache<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, V> RowCache<K, V> {
    pub(crate) fn contains(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// Inserts a row as it is stored.
    pub(crate) fn insert_clean(&mut self, key: K, value: V) {
        self.0.insert(key, CachedRow { value, is_dirty: false });
    }

    /// Inserts a new or changed row.
    pub(crate) fn insert_dirty(&mut self, key: K, value: V) {
        self.0.insert(key, CachedRow { value, is_dirty: true });
    }

    /// The row, marked as dirty.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let row = self.0.get_mut(key)?;
        row.is_dirty = true;
        Some(&mut row.value)
    }

    pub(crate) fn dirty(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().filter(|(_, row)| row.is_dirty).map(|(key, row)| (key, &row.value))
    }

    /// Marks all rows as stored in the file.
    pub(crate) fn mark_stored(&mut self) {
        if self.0.len() > ROWS_MAX {
            self.0.clear();
        }
        self.0.values_mut().for_each(|row| row.is_dirty = false);
    }
}
