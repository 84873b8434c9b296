//! The shutdown signal for streams and connections.

use tokio::sync::watch;

/// Requests the shutdown. Dropping it does so as well.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// Reports that a shutdown was requested. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown(Option<watch::Receiver<bool>>);

pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(Some(receiver)))
}

impl Trigger {
    pub fn request(&self) {
        self.0.send_replace(true);
    }

    /// Whether there is still something that it would end.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.0.is_closed()
    }
}

impl Shutdown {
    /// A shutdown that is never requested.
    pub fn never() -> Self {
        Self(None)
    }

    pub fn is_requested(&self) -> bool {
        self.0.as_ref().is_some_and(|requested| *requested.borrow() || requested.has_changed().is_err())
    }

    /// Waits until the shutdown is requested. Cancel-safe.
    pub async fn requested(&self) {
        match &self.0 {
            Some(requested) => {
                // An error means that the trigger was dropped, which is a request too.
                let _ = requested.clone().wait_for(|requested| *requested).await;
            }
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn request_reaches_current_and_later_waiters() {
        let (trigger, shutdown) = channel();
        assert!(!shutdown.is_requested());
        let waiting = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.requested().await }
        });
        trigger.request();
        waiting.await.unwrap();
        shutdown.requested().await;
        assert!(shutdown.is_requested());
    }

    #[tokio::test]
    async fn dropped_trigger_requests_the_shutdown() {
        let (trigger, shutdown) = channel();
        drop(trigger);
        shutdown.requested().await;
        assert!(shutdown.is_requested());
    }
}
