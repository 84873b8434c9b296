//! Records the lists of products that are handed out to users. The read side computes them.

use std::collections::BTreeMap;

use domain::user::{Command, ComputedList};
use event_schemas::envelope::Cause;
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
    /// Records that these lists are handed out. Returns their new ids, in their order, and the position of the last one.
    ///
    /// # Errors
    /// If one of them could not be recorded. The subjects of all users are found first, so then others are recorded only if the
    /// log fails in between.
    pub(crate) async fn record_lists(
        &self,
        caller: &Caller,
        trace: TraceParent,
        lists: Vec<(UserId, ComputedList)>,
    ) -> Result<(Vec<ListId>, Position), Problem> {
        let cause = self.engine.cause(caller, trace, None).await?;
        let ids: Vec<_> = lists.iter().map(|_| ListId(self.engine.ids.next())).collect();
        let mut users: BTreeMap<UserId, Vec<(ListId, ComputedList)>> = BTreeMap::new();
        for (id, (user, list)) in ids.iter().zip(lists) {
            users.entry(user).or_default().push((*id, list));
        }
        let commands = users.into_iter().map(|(user, lists)| self.command(&cause, user, lists));
        let commands: Vec<_> = stream::iter(commands).buffer_unordered(USERS_AT_ONCE).try_collect().await?;
        let recording = commands.into_iter().map(|(cause, stream, command)| async move {
            let executed = self.users.execute(&stream, &cause, command).await;
            executed.map(|executed| executed.position).map_err(problem::from_execute_error)
        });
        let positions = stream::iter(recording).buffer_unordered(USERS_AT_ONCE);
        let last = positions.try_fold(Position::START, async |last, one| Ok(last.max(one))).await?;
        Ok((ids, last))
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
