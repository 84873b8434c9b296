//! All groups of a server: creating, updating, deleting and finding them. They are loaded from the log at the first call.

use std::collections::BTreeMap;
use std::sync::Arc;

use event_schemas::envelope::NewEvent;
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use futures_util::FutureExt;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::group::{GroupCommand, GroupTask};
use super::group_conversion::GroupRequest;
use super::group_events::{self, GROUPS, GroupChange, GroupDefinition};
use super::refusal::GroupRefusal;
use super::settings::{GroupKey, GroupSource, GroupStart, Settings, SourcePosition};
use crate::wire::node::Node;
use event_log::{EventLog, Expected};

/// The most groups of a server.
const GROUPS_MAX: usize = 10_000;

/// The capacity of a group's command queue.
const COMMANDS_WAITING_MAX: usize = 1024;

/// The number of changes in one page.
const PAGE: usize = 512;

#[derive(Debug)]
pub(super) struct Groups {
    node: Arc<Node>,
    /// `None` until the groups are loaded. The lock serialises changes.
    entries: Mutex<Option<BTreeMap<GroupKey, GroupEntry>>>,
}

/// A group, and the command queue of its task once it was started.
#[derive(Debug)]
struct GroupEntry {
    group: GroupDefinition,
    commands: Option<mpsc::Sender<GroupCommand>>,
}

impl Groups {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self { node, entries: Mutex::new(None) }
    }

    pub(super) async fn create(&self, request: GroupRequest) -> Result<(), GroupRefusal> {
        let GroupRequest { key, filter, settings } = request;
        let mut entries = self.entries.lock().await;
        let entries = self.load_once(&mut entries).await?;
        if entries.contains_key(&key) {
            return Err(GroupRefusal::Exists(key));
        }
        if entries.len() >= GROUPS_MAX {
            return Err(GroupRefusal::TooMany);
        }
        let start = self.resolve_start(&key.source, &settings).await?;
        let mut group = GroupDefinition::new(&key, filter, settings, start);
        if let Some((checkpoints, parked)) = group_events::streams(&key) {
            group.checkpoints_from = self.end_of(&checkpoints).await?;
            group.parked_from = self.end_of(&parked).await?;
        }
        self.append(group.event()).await?;
        entries.insert(key, GroupEntry { group, commands: None });
        Ok(())
    }

    /// Changes the settings. The group resumes from its checkpoint, or from the new start if it has none.
    pub(super) async fn update(&self, request: GroupRequest) -> Result<(), GroupRefusal> {
        let GroupRequest { key, settings, .. } = request;
        let mut entries = self.entries.lock().await;
        let entries = self.load_once(&mut entries).await?;
        let Some(old) = entries.get_mut(&key) else { return Err(GroupRefusal::Missing(key)) };
        let start = self.resolve_start(&key.source, &settings).await?;
        let mut group = old.group.clone();
        (group.settings, group.begin) = (settings, start);
        self.append(group.event()).await?;
        old.group = group;
        stop(&mut old.commands, &key).await;
        Ok(())
    }

    pub(super) async fn delete(&self, key: GroupKey) -> Result<(), GroupRefusal> {
        let mut entries = self.entries.lock().await;
        let entries = self.load_once(&mut entries).await?;
        let Some(old) = entries.get_mut(&key) else { return Err(GroupRefusal::Missing(key)) };
        self.append(group_events::deletion(&key)).await?;
        stop(&mut old.commands, &key).await;
        entries.remove(&key);
        Ok(())
    }

    /// The command queue of a group.
    pub(super) async fn find(&self, key: &GroupKey) -> Result<mpsc::Sender<GroupCommand>, GroupRefusal> {
        let mut entries = self.entries.lock().await;
        let entries = self.load_once(&mut entries).await?;
        let Some(entry) = entries.get_mut(key) else { return Err(GroupRefusal::Missing(key.clone())) };
        self.ensure_started(key, entry).await
    }

    /// The command queues of all groups, or of those of a source.
    pub(super) async fn list(
        &self,
        of: Option<&GroupSource>,
    ) -> Result<Vec<mpsc::Sender<GroupCommand>>, GroupRefusal> {
        let mut entries = self.entries.lock().await;
        let entries = self.load_once(&mut entries).await?;
        let mut found = Vec::new();
        for (key, entry) in entries.iter_mut().filter(|(key, _)| of.is_none_or(|of| key.source == *of)) {
            found.push(self.ensure_started(key, entry).await?);
        }
        match of {
            Some(source) if found.is_empty() => Err(GroupRefusal::NoneOf(source.clone())),
            _ => Ok(found),
        }
    }

    /// Stops the tasks of all groups. They resume from their checkpoints at the next call.
    pub(super) async fn restart(&self) {
        if let Some(entries) = self.entries.lock().await.as_mut() {
            for (key, entry) in entries.iter_mut() {
                stop(&mut entry.commands, key).await;
            }
        }
    }

    async fn ensure_started(
        &self,
        key: &GroupKey,
        entry: &mut GroupEntry,
    ) -> Result<mpsc::Sender<GroupCommand>, GroupRefusal> {
        if let Some(commands) = entry.commands.as_ref().filter(|commands| !commands.is_closed()) {
            return Ok(commands.clone());
        }
        let task = GroupTask::resume(Arc::clone(&self.node), key.clone(), entry.group.clone()).await?;
        let (commands, receiver) = mpsc::channel(COMMANDS_WAITING_MAX);
        tokio::spawn(task.run(receiver).boxed());
        entry.commands = Some(commands.clone());
        Ok(commands)
    }

    /// Loads the groups from the log, unless they are loaded.
    async fn load_once<'a>(
        &self,
        entries: &'a mut Option<BTreeMap<GroupKey, GroupEntry>>,
    ) -> Result<&'a mut BTreeMap<GroupKey, GroupEntry>, GroupRefusal> {
        let groups = match entries.take() {
            Some(groups) => groups,
            None => self.load().await?,
        };
        Ok(entries.insert(groups))
    }

    async fn load(&self) -> Result<BTreeMap<GroupKey, GroupEntry>, GroupRefusal> {
        let mut groups = BTreeMap::new();
        let mut from = Revision(0);
        loop {
            let page = self.node.log.read_stream(&stream(), from, PAGE).await?;
            let Some(last) = page.last() else { return Ok(groups) };
            from = last.revision.next();
            for event in &page {
                match group_events::change(event) {
                    Some(GroupChange::Set(group)) => {
                        if let Some(key) = group.key() {
                            groups.insert(key, GroupEntry { group: *group, commands: None });
                        }
                    }
                    Some(GroupChange::Deleted(key)) => {
                        groups.remove(&key);
                    }
                    None => tracing::warn!(
                        position = %event.position,
                        "ignored a change to a persistent subscription that a newer version made"
                    ),
                }
            }
        }
    }

    /// Resolves the start of a group with these settings; "the end" is the current end.
    async fn resolve_start(
        &self,
        source: &GroupSource,
        settings: &Settings,
    ) -> Result<SourcePosition, GroupRefusal> {
        Ok(match (settings.start, source) {
            (GroupStart::First, _) => SourcePosition(0),
            (GroupStart::At(position), _) => position,
            (GroupStart::End, GroupSource::All) => SourcePosition::from(self.head()).next(),
            (GroupStart::End, GroupSource::Stream(stream)) => self.end_of(stream).await?.into(),
        })
    }

    fn head(&self) -> Position {
        *self.node.log.head().borrow()
    }

    /// The next revision of the stream.
    async fn end_of(&self, stream: &StreamId) -> Result<Revision, GroupRefusal> {
        Ok(self.node.log.last_event(stream).await?.map_or(Revision(0), |event| event.revision.next()))
    }

    async fn append(&self, change: NewEvent) -> Result<(), GroupRefusal> {
        self.node.log.append(&stream(), Expected::Any, vec![change]).await?;
        Ok(())
    }
}

fn stream() -> StreamId {
    GROUPS.parse().expect("it is a stream's name")
}

/// Ends a group's task, and waits until it has.
async fn stop(commands: &mut Option<mpsc::Sender<GroupCommand>>, key: &GroupKey) {
    let Some(commands) = commands.take() else { return };
    let (ended, has_ended) = oneshot::channel();
    let reason = GroupRefusal::Dropped(key.clone());
    // The task may have ended already.
    if commands.send(GroupCommand::End { reason, ended }).await.is_ok() {
        let _ = has_ended.await;
    }
}
