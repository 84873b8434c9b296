//! Records the lists of products that are handed out to users. The read side computes them.

use std::collections::BTreeMap;

use domain::user::{Command, ComputedList};
use event_schemas::envelope::{Cause, Idempotency};
use event_schemas::ids::{ListId, Position, UserId};
use event_schemas::sealed::SealedField;
use event_schemas::stream::StreamId;
use futures_util::{StreamExt, TryStreamExt, stream};
use web::caller::Caller;
use web::problem::Problem;
use web::request::TraceParent;

use super::Catalogue;
use crate::engine::problem;

/// The most users whose lists are recorded at a time.
const USERS_AT_ONCE: usize = 256;

impl Catalogue {
    /// Records that these lists are handed out. Returns their ids, in their order, the position of the last one, and whether
    /// an earlier request with the same key recorded them: then the lists in the log count.
    ///
    /// # Errors
    /// If one of them could not be recorded. The subjects of all users are found first, so then others are recorded only if the
    /// log fails in between.
    pub(crate) async fn record_lists(
        &self,
        caller: &Caller,
        trace: TraceParent,
        idempotency: Option<Idempotency>,
        lists: Vec<(UserId, ComputedList)>,
    ) -> Result<(Vec<ListId>, Position, bool), Problem> {
        let cause = self.engine.cause(caller, trace, idempotency).await?;
        let _guard = match idempotency {
            Some(idempotency) => Some(self.engine.key_locks.acquire(idempotency.key).await),
            None => None,
        };
        let ids = self.list_ids(&cause, lists.len()).await?;
        let mut users: BTreeMap<UserId, Vec<(ListId, ComputedList)>> = BTreeMap::new();
        for (id, (user, list)) in ids.iter().zip(lists) {
            users.entry(user).or_default().push((*id, list));
        }
        let commands = users.into_iter().map(|(user, lists)| self.command(&cause, user, lists));
        let commands: Vec<_> = stream::iter(commands).buffer_unordered(USERS_AT_ONCE).try_collect().await?;
        let recording = commands.into_iter().map(|(cause, stream, command)| async move {
            self.users.execute_part(&stream, &cause, &command).await.map_err(problem::from_execute_error)
        });
        let executed = stream::iter(recording).buffer_unordered(USERS_AT_ONCE);
        let (last, is_repeated) = executed
            .try_fold((Position::START, false), async |(last, is_repeated), one| {
                Ok((last.max(one.position), is_repeated || one.repeated))
            })
            .await?;
        Ok((ids, last, is_repeated))
    }

    /// The ids of the lists. Those of a key are recorded before the lists, so that a repetition finds these lists, or
    /// records them under these ids if the first request was interrupted in between.
    async fn list_ids(&self, cause: &Cause, count: usize) -> Result<Vec<ListId>, Problem> {
        let earlier = self.engine.earlier_answer(cause).await?;
        if let Some(ids) = earlier.and_then(|earlier| earlier.details) {
            return serde_json::from_value(ids).map_err(|error| Problem::internal(&error));
        }
        let ids: Vec<_> = (0..count).map(|_| ListId(self.engine.ids.next())).collect();
        let details = serde_json::to_value(&ids).map_err(|error| Problem::internal(&error))?;
        self.engine.record_answer(cause, Some(details)).await?;
        Ok(ids)
    }

    /// The command that records the lists of a user, its stream and its cause.
    async fn command(
        &self,
        cause: &Cause,
        user: UserId,
        lists: Vec<(ListId, ComputedList)>,
    ) -> Result<(Cause, StreamId, Command), Problem> {
        let vault = &self.engine.vault;
        let subject = vault.subject(&cause.tenant, &user).await;
        let subject = subject.map_err(|error| problem::from_vault_error(&error))?;
        let served = lists.into_iter().map(|(id, list)| {
            let seal =
                |query: &String| vault.seal(&cause.tenant, &subject, SealedField::ListQuery(id), query);
            let query = list.query.as_ref().map(seal).transpose()?;
            Ok(list.served(subject.id, id, query))
        });
        let served = served.collect::<Result<_, _>>().map_err(|error| problem::from_vault_error(&error))?;
        let cause = Cause { subject: Some(subject.id), ..cause.clone() };
        let stream = StreamId::user(&cause.tenant, subject.id);
        Ok((cause, stream, Command::Lists(served)))
    }
}
