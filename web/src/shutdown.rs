//! The end of the server, as streams and connections learn of it.

use tokio::sync::watch;

/// Begins the end. Dropping it does as well: whoever held it is gone.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// Tells when the end has begun. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown(Option<watch::Receiver<bool>>);

pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(Some(receiver)))
}

impl Trigger {
    pub fn begin(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// For what ends by itself.
    pub fn never() -> Self {
        Self(None)
    }

    pub fn has_begun(&self) -> bool {
        self.0.as_ref().is_some_and(|begun| *begun.borrow() || begun.has_changed().is_err())
    }

    /// Waits until the end begins. Can be dropped and called again.
    pub async fn begun(&self) {
        match &self.0 {
            Some(begun) => {
                // An error means that the trigger is gone, which is the end too.
                let _ = begun.clone().wait_for(|begun| *begun).await;
            }
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_reaches_all_who_wait_and_all_who_come_later() {
        let (trigger, shutdown) = channel();
        assert!(!shutdown.has_begun());
        let waiting = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.begun().await }
        });
        trigger.begin();
        waiting.await.unwrap();
        shutdown.begun().await;
        assert!(shutdown.has_begun());
    }

    #[tokio::test]
    async fn a_lost_trigger_is_the_end() {
        let (trigger, shutdown) = channel();
        drop(trigger);
        shutdown.begun().await;
        assert!(shutdown.has_begun());
    }
}
