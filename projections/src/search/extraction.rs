//! The items that extractions have still to do.

use domain::job::extraction::items::{self, Items, ItemsQuery};
use domain::recommend::sources::ListSources;
use event_schemas::ids::{Position, Tenant};

use super::ProductSearch;
use crate::generation::QueryError;

impl ProductSearch {
    /// The items of an extraction that are not done, with the position that they reflect; and the number of all, if it is asked for.
    ///
    /// # Errors
    /// [`QueryError::Building`] until the index is complete for the first time.
    pub async fn extraction_items(
        &self,
        tenant: &Tenant,
        query: ItemsQuery,
        is_counted: bool,
    ) -> Result<(Items, Option<u64>, Position), QueryError> {
        // The semaphore is never closed.
        let permit = self.permits.clone().acquire_owned().await.ok();
        let items = move |fold: &ListSources, position| {
            let count = is_counted.then(|| items::count(fold, &query));
            let items = items::items(fold, &query);
            drop(permit);
            (items, count, position)
        };
        self.read(tenant, items).await
    }
}
