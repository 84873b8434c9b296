//! Random histories of commands, repeated, concurrent, in wrong order and over restarts, checked against the invariants
//! of the log.

use std::collections::{BTreeMap, BTreeSet};

use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{LeaseId, RequestId};
use event_schemas::image_match::ImageMatchEvent;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{TestApp, TestResponse, a_match, lease, request};

#[derive(Clone, Debug)]
enum ModelStep {
    /// Matches of these numbers.
    Matches(Vec<usize>),
    /// Requests of these numbers.
    Requests(Vec<usize>),
    Claim {
        worker: usize,
        max: usize,
    },
    /// A report about the `nth` work item that was ever claimed.
    Report {
        nth: usize,
        done: u64,
        completed: bool,
    },
    Complete {
        nth: usize,
    },
    Fail {
        nth: usize,
        error: &'static str,
    },
    Exit {
        worker: usize,
    },
    Pass {
        seconds: u64,
    },
    Restart,
    /// The `nth` command that was ever sent, again.
    Repeat {
        nth: usize,
    },
}

fn step() -> impl Strategy<Value = ModelStep> {
    let numbers = || prop::collection::vec(0..30_usize, 0..8);
    prop_oneof![
        2 => numbers().prop_map(ModelStep::Matches),
        2 => numbers().prop_map(ModelStep::Requests),
        4 => (0..3_usize, 1..4_usize).prop_map(|(worker, max)| ModelStep::Claim { worker, max }),
        4 => (0..40_usize, 0..=10_u64, any::<bool>())
            .prop_map(|(nth, done, completed)| ModelStep::Report { nth, done, completed }),
        1 => (0..40_usize).prop_map(|nth| ModelStep::Complete { nth }),
        1 => (0..40_usize, prop::sample::select(vec!["timeout", "video is private", "?"]))
            .prop_map(|(nth, error)| ModelStep::Fail { nth, error }),
        1 => (0..3_usize).prop_map(|worker| ModelStep::Exit { worker }),
        2 => (1..50_u64).prop_map(|seconds| ModelStep::Pass { seconds }),
        1 => Just(ModelStep::Restart),
        3 => (0..60_usize).prop_map(|nth| ModelStep::Repeat { nth }),
    ]
}

/// A command that was sent, with its key and its response.
struct SentCommand {
    path: String,
    key: String,
    body: Value,
    response: TestResponse,
    /// True if it appended events. If not, its position cannot be derived from the log later.
    recorded: bool,
}

struct Model {
    app: TestApp,
    job: String,
    sent: Vec<SentCommand>,
    claimed: Vec<Value>,
}

impl Model {
    async fn new() -> Self {
        let app = TestApp::new().await;
        let job = app.job_with_requests(3).await;
        Self { app, job, sent: Vec::new(), claimed: Vec::new() }
    }

    async fn send(&mut self, path: String, body: Value) -> TestResponse {
        let key = format!("k{}", self.sent.len());
        let before = self.app.head();
        let response = self.app.call("POST", &path).key(&key).body(&body).send().await;
        // An empty claim registers its worker at most, and leaves its key unused.
        let recorded = self.app.head() > before && response.body["items"] != json!([]);
        self.sent.push(SentCommand { path, key, body, response: response.clone(), recorded });
        response
    }

    /// The `nth` claimed work item, if there is any.
    fn nth(&self, nth: usize) -> Option<Value> {
        self.claimed.get(nth % self.claimed.len().max(1)).cloned()
    }

    async fn apply(mut self, step: ModelStep) -> Self {
        let job = self.job.clone();
        match step {
            ModelStep::Matches(numbers) => {
                let taken = self
                    .send(format!("{job}/matches"), numbers.iter().map(|n| a_match(*n)).collect())
                    .await
                    .ok();
                assert_eq!(
                    taken["accepted"].as_u64().unwrap() + taken["duplicates"].as_u64().unwrap(),
                    numbers.len() as u64
                );
            }
            ModelStep::Requests(numbers) => {
                let requests = numbers.iter().map(|n| request(&format!("q{n}"))).collect();
                self.send(format!("{job}/match-requests"), requests).await.ok();
            }
            ModelStep::Claim { worker, max } => {
                let body = json!({"worker_id": format!("w{worker}"), "kinds": ["match_request"], "max": max});
                let claimed = self.send("/internal/work/claim".to_owned(), body).await.ok();
                self.claimed.extend(claimed["items"].as_array().unwrap().iter().cloned());
            }
            ModelStep::Report { nth, done, completed } => {
                if let Some(item) = self.nth(nth) {
                    let body = json!([{
                        "request_id": item["request_id"], "lease_id": lease(&item), "candidates_processed": done,
                        "vector_pass_done": done, "ransac_checked": 0, "completed": completed,
                    }]);
                    self.send(format!("{job}/match-progress"), body).await;
                }
            }
            ModelStep::Complete { nth } => {
                if let Some(item) = self.nth(nth) {
                    self.send(format!("/internal/work/{}/complete", lease(&item)), json!({})).await;
                }
            }
            ModelStep::Fail { nth, error } => {
                if let Some(item) = self.nth(nth) {
                    self.send(format!("/internal/work/{}/fail", lease(&item)), json!({"error": error})).await;
                }
            }
            ModelStep::Exit { worker } => {
                self.send(format!("/internal/workers/w{worker}/exit"), json!({"exit_code": 1})).await;
            }
            ModelStep::Pass { seconds } => self.app.advance(seconds).await,
            ModelStep::Restart => self.app = self.app.restarted().await,
            ModelStep::Repeat { nth } => Box::pin(self.repeat(nth)).await,
        }
        self.app.run_ready_tasks().await;
        self
    }

    /// A repeated command gets its first result and appends nothing, even with three copies at once.
    async fn repeat(&mut self, nth: usize) {
        let Some(sent) = self.sent.get(nth % self.sent.len().max(1)) else { return };
        if sent.response.status != 200 || !sent.recorded {
            return;
        }
        self.app.run_ready_tasks().await;
        let before = self.app.head();
        let again = || self.app.call("POST", &sent.path).key(&sent.key).body(&sent.body).send();
        let copies = tokio::join!(again(), again(), again());
        for copy in [copies.0, copies.1, copies.2] {
            // The totals of a request may have grown since it was claimed first.
            let without_totals = |response: &TestResponse| {
                let mut body = response.body.clone();
                for item in body["items"].as_array_mut().into_iter().flatten() {
                    item["totals"].take();
                    item["attempt"].take();
                }
                (response.status, body)
            };
            assert_eq!(without_totals(&copy), without_totals(&sent.response), "{}", sent.path);
        }
        assert_eq!(self.app.head(), before, "{}", sent.path);
    }
}

/// The invariants of every log, whatever was sent, checked by the events alone.
fn check(events: &[Envelope]) {
    let ids: BTreeSet<_> = events.iter().map(|envelope| envelope.id).collect();
    assert_eq!(ids.len(), events.len(), "an event id occurs twice");
    let mut found = BTreeSet::new();
    let mut requests = BTreeSet::new();
    let mut held: BTreeMap<RequestId, LeaseId> = BTreeMap::new();
    let mut completed = BTreeSet::new();
    for envelope in events {
        let Event::ImageMatch(event) = &envelope.event else { continue };
        match event {
            ImageMatchEvent::MatchFound(event) => assert!(found.insert(event.match_id.clone())),
            ImageMatchEvent::MatchRequested(event) => assert!(requests.insert(event.request_id.clone())),
            ImageMatchEvent::MatchRequestClaimed(event) => {
                assert!(!completed.contains(&event.request_id));
                let before = held.insert(event.request_id.clone(), event.lease_id);
                assert_eq!(before, None, "claimed while it was held");
            }
            ImageMatchEvent::MatchRequestLeaseExpired(event) => {
                assert_eq!(held.remove(&event.request_id), Some(event.lease_id));
            }
            ImageMatchEvent::MatchRequestFailed(event) => {
                assert_eq!(held.remove(&event.request_id), Some(event.lease_id));
            }
            ImageMatchEvent::MatchProgressReported(event) => {
                assert_eq!(held.get(&event.request_id), event.lease_id.as_ref());
            }
            ImageMatchEvent::MatchRequestCompleted(event) => {
                assert_eq!(held.remove(&event.request_id), event.lease_id);
                assert!(completed.insert(event.request_id.clone()));
            }
            ImageMatchEvent::JobWorkerLost(event) => {
                held.retain(|_, lease| !event.lease_ids.contains(lease));
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_command_counts_once_in_any_history(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = Model::new().await;
            for step in steps {
                world = Box::pin(world.apply(step)).await;
            }
            check(&world.app.events().await);
        });
    }
}
