//! The lease among servers that stand by for each other.

use super::history::{History, job, tenant};
use super::postgres::PostgresServer;
use super::test_store::TestStore;
use super::{TIMEOUT, open, reach};
use crate::sql::lease::{LOOKS, renew_now, stop_renewing};
use crate::{Name, PostgresUrl, ReadStore, Standby, WriterLease};

fn database(store: &TestStore) -> PostgresUrl {
    match store.settings().store {
        ReadStore::Postgres(url) => url,
        ReadStore::Folder(_) => panic!("leases need PostgreSQL"),
    }
}

/// Looks until the lease is taken.
async fn look_until_taken(standby: &mut Standby) -> WriterLease {
    let taken = tokio::time::timeout(TIMEOUT, async {
        loop {
            if let Some(lease) = standby.look().await.unwrap() {
                return lease;
            }
        }
    });
    taken.await.expect("the lease was not taken in time")
}

#[tokio::test]
async fn lease_that_is_renewed_is_not_taken_over() {
    let store = TestStore::postgres();
    let url = database(&store);
    let lease = Standby::new(&url).look().await.unwrap().expect("the lease is free");
    let mut standby = Standby::new(&url);
    for _ in 0..3 {
        for _ in 0..LOOKS {
            assert!(standby.look().await.unwrap().is_none());
        }
        assert!(renew_now(&lease).await.unwrap());
    }
    // When it is released, the next look takes it.
    lease.release().await.unwrap();
    assert!(standby.look().await.unwrap().is_some());
}

#[tokio::test]
async fn lease_that_is_not_renewed_is_taken_over_once() {
    let store = TestStore::postgres();
    let url = database(&store);
    let first = Standby::new(&url).look().await.unwrap().expect("the lease is free");
    stop_renewing(&first);
    assert!(renew_now(&first).await.unwrap());
    let (mut one, mut other) = (Standby::new(&url), Standby::new(&url));
    for _ in 0..LOOKS {
        assert!(one.look().await.unwrap().is_none());
        assert!(other.look().await.unwrap().is_none());
    }
    let taken = [one.look().await.unwrap(), other.look().await.unwrap()];
    assert_eq!(taken.iter().flatten().count(), 1);
    assert!(!renew_now(&first).await.unwrap(), "the former holder has lost it");
    for lease in taken.iter().flatten() {
        assert!(renew_now(lease).await.unwrap());
    }
    // The former holder cannot release what it no longer has.
    first.release().await.unwrap();
    assert!(other.look().await.unwrap().is_none());
}

#[tokio::test]
async fn lease_is_not_taken_over_because_the_database_was_down() {
    let server = PostgresServer::start();
    let store = TestStore::of(server.database());
    let url = database(&store);
    let lease = Standby::new(&url).look().await.unwrap().expect("the lease is free");
    stop_renewing(&lease);
    let mut standby = Standby::new(&url);
    for _ in 0..LOOKS {
        assert!(standby.look().await.unwrap().is_none());
    }
    server.crash();
    assert!(standby.look().await.is_err());
    assert!(server.resume());
    // The holder has as many looks as before to renew it.
    for _ in 0..LOOKS {
        assert!(standby.look().await.unwrap().is_none());
    }
}

#[tokio::test]
async fn taking_over_ends_the_writes_of_a_holder_that_is_stopped() {
    let (store, history) = (TestStore::postgres(), History::new());
    let url = database(&store);
    let holder = Standby::new(&url).look().await.unwrap().expect("the lease is free");
    let stopped = open(&store, &history).await;
    reach(&stopped, history.job_created(job(1), None).await).await;
    // It keeps its connections, and with them the locks of all schemas.
    stop_renewing(&holder);
    let lease = look_until_taken(&mut Standby::new(&url)).await;
    let successor = open(&store, &history).await;
    let position = history.job_created(job(2), None).await;
    successor.wait_for(&Name::ALL, position, TIMEOUT).await.unwrap();
    assert!(successor.jobs().get(&tenant(), job(2)).await.unwrap().is_some());
    stopped.shutdown().await;
    let position = history.job_created(job(3), None).await;
    successor.wait_for(&Name::ALL, position, TIMEOUT).await.unwrap();
    drop(lease);
}

#[tokio::test]
async fn server_without_a_lease_is_not_deposed() {
    let (store, history) = (TestStore::postgres(), History::new());
    let models = open(&store, &history).await;
    reach(&models, history.job_created(job(1), None).await).await;
    let mut standby = Standby::new(&database(&store));
    for _ in 0..=LOOKS {
        assert!(standby.look().await.unwrap().is_none());
    }
    models.wait_for(&Name::ALL, history.job_created(job(2), None).await, TIMEOUT).await.unwrap();
    models.shutdown().await;
    look_until_taken(&mut standby).await;
}
