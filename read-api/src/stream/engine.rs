//! One engine under all live streams.
//!
//! Clients that follow the same object share a topic: one task reads what is new, makes each update once, and hands
//! it to all of them. A client that has missed changes first gets them from a follower of its own, which reads them
//! from the log as fast as the client does, and then joins the topic. It may join once its follower has read every
//! change that the topic has sent. What the topic sends afterwards and the client has already is recognised by its id.
//!
//! The first client's follower becomes the topic's. A topic ends when its last client has left.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_schemas::ids::{Position, Tenant};
use futures_util::FutureExt;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;
use web::problem::Problem;
use web::shutdown::Shutdown;
use web::sse::{self, Events, Sender, Update};

/// The object that a topic follows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TopicKey {
    pub(super) kind: &'static str,
    /// None for all tenants.
    pub(super) tenant: Option<Tenant>,
    pub(super) id: Uuid,
}

/// The present state, for clients that have received all changes.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    pub(super) update: Update,
    /// Whether it shows more than the events up to its id, so that a client with this id wants it too.
    pub(super) is_beyond_id: bool,
}

/// Reads what happens to one object, and makes the updates.
pub(crate) trait Follower: Send + Sized + 'static {
    /// The data of the updates.
    type Data: Serialize + JsonSchema;

    /// The shortest time between two reads: long enough to read many events at once, short enough to send a state
    /// change within 50 ms.
    const INTERVAL: Duration = Duration::from_millis(20);

    fn key(&self) -> TopicKey;

    /// The position up to which the client has received everything; none for a client that starts with the present
    /// state.
    fn received(&self) -> Option<Position>;

    /// The position of the latest state change that was read.
    fn changed(&self) -> Option<Position>;

    /// The data of `connected`.
    fn connected_event(&self) -> Option<Self::Data>;

    /// Reads what is new, and returns the state changes that have not been sent, oldest first.
    fn changes(&mut self) -> impl Future<Output = Result<Vec<Update>, Problem>> + Send;

    /// The present state if it is not what was sent last.
    fn progress(&mut self) -> impl Future<Output = Result<Option<Progress>, Problem>> + Send;

    /// The first updates of a client that starts with the present state.
    fn first(&mut self) -> impl Future<Output = Result<Vec<Update>, Problem>> + Send;

    /// Waits until there may be something new. May be dropped at any time.
    fn wake(&mut self) -> impl Future<Output = ()> + Send;
}

#[derive(Debug)]
struct Client {
    sender: Sender,
    /// The position up to which it has received everything; none before its first update.
    received: Option<Position>,
}

impl Client {
    /// Sends the update unless the client has it. Returns whether the client is still connected.
    fn send(&mut self, update: &Update, is_beyond_id: bool) -> bool {
        let is_new = match (update.id(), self.received) {
            (Some(id), Some(received)) => id > received || (id == received && is_beyond_id),
            _ => true,
        };
        if !is_new {
            return !self.sender.is_closed();
        }
        self.received = self.received.max(update.id());
        self.sender.send(update.clone()).is_ok()
    }
}

#[derive(Debug, Default)]
struct Subscribers {
    clients: Vec<Client>,
    /// The position of the latest state change that was sent.
    changed: Option<Position>,
    /// The progress that was sent after it.
    progress: Option<Progress>,
}

impl Subscribers {
    /// Sends the update to all clients that have received their first one.
    fn send(&mut self, update: &Update, is_beyond_id: bool) {
        self.clients.retain_mut(|client| client.received.is_none() || client.send(update, is_beyond_id));
    }
}

#[derive(Debug, Default)]
struct Topic {
    subscribers: Mutex<Subscribers>,
    /// Notified when a client has joined or left.
    membership: Arc<Notify>,
}

impl Topic {
    fn subscribers(&self) -> MutexGuard<'_, Subscribers> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is new and sends it.
    async fn send_news(&self, follower: &mut impl Follower) -> Result<(), Problem> {
        let changes = follower.changes().await?;
        if !changes.is_empty() {
            let mut subscribers = self.subscribers();
            changes.iter().for_each(|change| subscribers.send(change, false));
            subscribers.changed = follower.changed();
            subscribers.progress = None;
        }
        if let Some(progress) = follower.progress().await? {
            let mut subscribers = self.subscribers();
            subscribers.send(&progress.update, progress.is_beyond_id);
            subscribers.progress = Some(progress);
        }
        Ok(())
    }

    /// Sends the present state to the clients that have joined without a position.
    async fn send_first(&self, follower: &mut impl Follower) -> Result<(), Problem> {
        if self.subscribers().clients.iter().all(|client| client.received.is_some()) {
            return Ok(());
        }
        let first = follower.first().await?;
        self.subscribers().clients.retain_mut(|client| {
            client.received.is_some() || first.iter().all(|update| client.send(update, false))
        });
        Ok(())
    }
}

/// All topics with clients.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topics(Arc<Mutex<HashMap<TopicKey, Arc<Topic>>>>);

impl Topics {
    /// Opens the stream of a client.
    pub(super) fn open<F: Follower>(&self, follower: F, shutdown: &Shutdown) -> Events<F::Data> {
        let topics = self.clone();
        sse::stream(&follower.connected_event(), shutdown, |sender| topics.serve(follower, sender))
    }

    /// Sends the client what it has missed, until it can join the topic.
    async fn serve<F: Follower>(self, mut follower: F, sender: Sender) {
        let mut client = Client { sender, received: follower.received() };
        loop {
            let changes = match &client.received {
                Some(_) => follower.changes().await,
                None => Ok(Vec::new()),
            };
            let changes = match changes {
                Ok(changes) => changes,
                Err(problem) => return warn(&follower.key(), &problem),
            };
            for change in changes {
                client.received = client.received.max(change.id());
                let is_last = change.is_last();
                if client.sender.replay(change).await.is_err() || is_last {
                    return;
                }
            }
            match self.join(follower, client) {
                None => return,
                Some(early) => (follower, client) = early,
            }
            sleep(F::INTERVAL).await;
        }
    }

    /// Adds the client to the topic, or starts the topic with the client's follower. Returns both if the topic has
    /// sent changes that the follower has not read.
    fn join<F: Follower>(&self, follower: F, mut client: Client) -> Option<(F, Client)> {
        let key = follower.key();
        let mut topics = self.locked();
        if let Some(topic) = topics.get(&key) {
            let mut subscribers = topic.subscribers();
            if client.received.is_some() {
                if follower.changed() < subscribers.changed {
                    return Some((follower, client));
                }
                if let Some(Progress { update, is_beyond_id }) = &subscribers.progress {
                    client.send(update, *is_beyond_id);
                }
            }
            client.sender.on_disconnect(Arc::clone(&topic.membership));
            subscribers.clients.push(client);
            topic.membership.notify_one();
            return None;
        }
        let topic = Arc::<Topic>::default();
        client.sender.on_disconnect(Arc::clone(&topic.membership));
        let mut subscribers = topic.subscribers();
        subscribers.changed = follower.changed();
        subscribers.clients.push(client);
        drop(subscribers);
        topics.insert(key.clone(), Arc::clone(&topic));
        drop(topics);
        tokio::spawn(Running { topics: self.clone(), key, topic }.run(follower).boxed());
        None
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<TopicKey, Arc<Topic>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.locked().len()
    }
}

fn warn(key: &TopicKey, problem: &Problem) {
    tracing::warn!(topic = key.kind, id = %key.id, %problem, "a live stream failed");
}

/// The task of a topic. However it ends, the topic is removed and its streams are closed; the clients reconnect and
/// resume after their last ids.
struct Running {
    topics: Topics,
    key: TopicKey,
    topic: Arc<Topic>,
}

impl Running {
    async fn run(self, mut follower: impl Follower) {
        if let Err(problem) = self.follow(&mut follower).await {
            warn(&self.key, &problem);
        }
    }

    async fn follow<F: Follower>(&self, follower: &mut F) -> Result<(), Problem> {
        self.topic.send_news(follower).await?;
        let mut read_at = Instant::now();
        loop {
            self.topic.send_first(follower).await?;
            if self.end_without_clients() {
                return Ok(());
            }
            let news = async {
                sleep_until(read_at + F::INTERVAL).await;
                follower.wake().await;
            };
            tokio::select! {
                () = news => {
                    self.topic.send_news(follower).await?;
                    read_at = Instant::now();
                }
                () = self.topic.membership.notified() => {}
            }
        }
    }

    /// Removes the topic if all its clients have left. No client can join it in between.
    fn end_without_clients(&self) -> bool {
        let mut topics = self.topics.locked();
        let mut subscribers = self.topic.subscribers();
        subscribers.clients.retain(|client| !client.sender.is_closed());
        let is_unused = subscribers.clients.is_empty();
        if is_unused {
            topics.remove(&self.key);
        }
        is_unused
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut topics = self.topics.locked();
        // Another topic of the same key may have started already.
        if topics.get(&self.key).is_some_and(|topic| Arc::ptr_eq(topic, &self.topic)) {
            topics.remove(&self.key);
        }
        drop(topics);
        self.topic.subscribers().clients.clear();
    }
}
