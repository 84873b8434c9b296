//! Rows that were lately touched, in memory between batches, and which of them are not stored.

use std::collections::BTreeMap;

/// How many rows stay in memory. They come back from the file when they are wanted again.
const KEPT_MAX: usize = 10_000;

#[derive(Debug)]
pub(crate) struct Kept<K, V>(BTreeMap<K, Row<V>>);

#[derive(Debug)]
struct Row<V> {
    value: V,
    changed: bool,
}

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, V> Kept<K, V> {
    pub(crate) fn holds(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// A row as it is stored.
    pub(crate) fn loaded(&mut self, key: K, value: V) {
        self.0.insert(key, Row { value, changed: false });
    }

    /// A row that is new, or is another now.
    pub(crate) fn put(&mut self, key: K, value: V) {
        self.0.insert(key, Row { value, changed: true });
    }

    /// The row, to be changed.
    pub(crate) fn change(&mut self, key: &K) -> Option<&mut V> {
        let row = self.0.get_mut(key)?;
        row.changed = true;
        Some(&mut row.value)
    }

    pub(crate) fn changed(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().filter(|(_, row)| row.changed).map(|(key, row)| (key, &row.value))
    }

    /// What has changed is in the file now.
    pub(crate) fn stored(&mut self) {
        if self.0.len() > KEPT_MAX {
            self.0.clear();
        }
        self.0.values_mut().for_each(|row| row.changed = false);
    }
}
