//! All groups of a server: made, changed, deleted, found. What they are is in the log; the first who asks reads it.

use futures_util::FutureExt;
use std::collections::BTreeMap;
use std::sync::Arc;

use event_schemas::envelope::NewEvent;
use event_schemas::ids::{Position, Revision};
use event_schemas::stream::StreamId;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::group::{Command, Worker};
use super::message::Wanted;
use super::record::{self, Change, GROUPS, Group};
use super::refusal::GroupRefusal;
use super::settings::{Beginning, Key, Place, Settings, Source};
use crate::wire::node::Node;
use crate::{EventLog, Expected};

/// The most groups of a server.
const GROUPS_MAX: usize = 10_000;

/// How many commands may wait for a group.
const COMMANDS_WAITING_MAX: usize = 1024;

/// How many changes are read at once.
const PAGE: usize = 512;

#[derive(Debug)]
pub(super) struct Groups {
    node: Arc<Node>,
    /// None until somebody asks. Changes are made one after another.
    running: Mutex<Option<BTreeMap<Key, Running>>>,
}

/// A group, and its task once somebody asked for it.
#[derive(Debug)]
struct Running {
    group: Group,
    commands: Option<mpsc::Sender<Command>>,
}

impl Groups {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self { node, running: Mutex::new(None) }
    }

    pub(super) async fn create(&self, wanted: Wanted) -> Result<(), GroupRefusal> {
        let Wanted { key, filter, settings } = wanted;
        let mut running = self.running.lock().await;
        let running = self.loaded(&mut running).await?;
        if running.contains_key(&key) {
            return Err(GroupRefusal::Exists(key));
        }
        if running.len() >= GROUPS_MAX {
            return Err(GroupRefusal::TooMany);
        }
        let begin = self.begin(&key.source, &settings).await?;
        let mut group = Group::new(&key, filter, settings, begin);
        if let Some((checkpoints, parked)) = record::streams(&key) {
            group.checkpoints_from = self.end_of(&checkpoints).await?;
            group.parked_from = self.end_of(&parked).await?;
        }
        self.append(group.event()).await?;
        running.insert(key, Running { group, commands: None });
        Ok(())
    }

    /// The group goes on from its checkpoint with other settings; from the start that they name if it has none.
    pub(super) async fn update(&self, wanted: Wanted) -> Result<(), GroupRefusal> {
        let Wanted { key, settings, .. } = wanted;
        let mut running = self.running.lock().await;
        let running = self.loaded(&mut running).await?;
        let Some(old) = running.get_mut(&key) else { return Err(GroupRefusal::Missing(key)) };
        let begin = self.begin(&key.source, &settings).await?;
        let mut group = old.group.clone();
        (group.settings, group.begin) = (settings, begin);
        self.append(group.event()).await?;
        old.group = group;
        stop(&mut old.commands, &key).await;
        Ok(())
    }

    pub(super) async fn delete(&self, key: Key) -> Result<(), GroupRefusal> {
        let mut running = self.running.lock().await;
        let running = self.loaded(&mut running).await?;
        let Some(old) = running.get_mut(&key) else { return Err(GroupRefusal::Missing(key)) };
        self.append(record::deletion(&key)).await?;
        stop(&mut old.commands, &key).await;
        running.remove(&key);
        Ok(())
    }

    /// How to reach the group.
    pub(super) async fn find(&self, key: &Key) -> Result<mpsc::Sender<Command>, GroupRefusal> {
        let mut running = self.running.lock().await;
        let running = self.loaded(&mut running).await?;
        let Some(running) = running.get_mut(key) else { return Err(GroupRefusal::Missing(key.clone())) };
        self.started(key, running).await
    }

    /// How to reach all groups, or those of a source.
    pub(super) async fn list(&self, of: Option<&Source>) -> Result<Vec<mpsc::Sender<Command>>, GroupRefusal> {
        let mut running = self.running.lock().await;
        let running = self.loaded(&mut running).await?;
        let mut found = Vec::new();
        for (key, running) in running.iter_mut().filter(|(key, _)| of.is_none_or(|of| key.source == *of)) {
            found.push(self.started(key, running).await?);
        }
        match of {
            Some(source) if found.is_empty() => Err(GroupRefusal::NoneOf(source.clone())),
            _ => Ok(found),
        }
    }

    /// Ends the work of all groups. They go on from their checkpoints with whoever comes next.
    pub(super) async fn restart(&self) {
        if let Some(running) = self.running.lock().await.as_mut() {
            for (key, running) in running.iter_mut() {
                stop(&mut running.commands, key).await;
            }
        }
    }

    async fn started(&self, key: &Key, running: &mut Running) -> Result<mpsc::Sender<Command>, GroupRefusal> {
        if let Some(commands) = running.commands.as_ref().filter(|commands| !commands.is_closed()) {
            return Ok(commands.clone());
        }
        let worker = Worker::resume(Arc::clone(&self.node), key.clone(), running.group.clone()).await?;
        let (commands, waiting) = mpsc::channel(COMMANDS_WAITING_MAX);
        tokio::spawn(worker.run(waiting).boxed());
        running.commands = Some(commands.clone());
        Ok(commands)
    }

    async fn loaded<'a>(
        &self,
        running: &'a mut Option<BTreeMap<Key, Running>>,
    ) -> Result<&'a mut BTreeMap<Key, Running>, GroupRefusal> {
        let groups = match running.take() {
            Some(groups) => groups,
            None => self.load().await?,
        };
        Ok(running.insert(groups))
    }

    async fn load(&self) -> Result<BTreeMap<Key, Running>, GroupRefusal> {
        let mut groups = BTreeMap::new();
        let mut from = Revision(0);
        loop {
            let page = self.node.log.read_stream(&stream(), from, PAGE).await?;
            let Some(last) = page.last() else { return Ok(groups) };
            from = last.revision.next();
            for event in &page {
                match record::change(event) {
                    Some(Change::Set(group)) => {
                        if let Some(key) = group.key() {
                            groups.insert(key, Running { group: *group, commands: None });
                        }
                    }
                    Some(Change::Deleted(key)) => {
                        groups.remove(&key);
                    }
                    None => tracing::warn!(
                        position = %event.position,
                        "a change to a persistent subscription was made by a newer version, and is left out"
                    ),
                }
            }
        }
    }

    /// Where a group with these settings begins: what "the end" is, is settled now.
    async fn begin(&self, source: &Source, settings: &Settings) -> Result<Place, GroupRefusal> {
        Ok(match (settings.start, source) {
            (Beginning::First, _) => Place(0),
            (Beginning::At(place), _) => place,
            (Beginning::End, Source::All) => Place::from(self.head()).next(),
            (Beginning::End, Source::Stream(stream)) => self.end_of(stream).await?.into(),
        })
    }

    fn head(&self) -> Position {
        *self.node.log.head().borrow()
    }

    /// The revision of the stream's next event.
    async fn end_of(&self, stream: &StreamId) -> Result<Revision, GroupRefusal> {
        Ok(self.node.log.last_of(stream).await?.map_or(Revision(0), |event| event.revision.next()))
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
async fn stop(commands: &mut Option<mpsc::Sender<Command>>, key: &Key) {
    let Some(commands) = commands.take() else { return };
    let (ended, over) = oneshot::channel();
    let why = GroupRefusal::Dropped(key.clone());
    // If it has ended by itself, that is as well.
    if commands.send(Command::End { why, ended }).await.is_ok() {
        let _ = over.await;
    }
}
