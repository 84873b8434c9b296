//! Random histories of commands, repeated, at once, in wrong order and over restarts, against what must hold of any log.

use std::collections::{BTreeMap, BTreeSet};

use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{LeaseId, RequestId};
use event_schemas::matching::MatchingEvent;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{Answer, Bench, a_match, lease, request};

#[derive(Clone, Debug)]
enum Step {
    /// Matches of these numbers.
    Matches(Vec<usize>),
    /// Requests of these numbers.
    Requests(Vec<usize>),
    Claim {
        worker: usize,
        max: usize,
    },
    /// A report about the `nth` piece of work that was ever claimed.
    Report {
        nth: usize,
        done: u64,
        completed: bool,
    },
    HandIn {
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

fn step() -> impl Strategy<Value = Step> {
    let numbers = || prop::collection::vec(0..30_usize, 0..8);
    prop_oneof![
        2 => numbers().prop_map(Step::Matches),
        2 => numbers().prop_map(Step::Requests),
        4 => (0..3_usize, 1..4_usize).prop_map(|(worker, max)| Step::Claim { worker, max }),
        4 => (0..40_usize, 0..=10_u64, any::<bool>())
            .prop_map(|(nth, done, completed)| Step::Report { nth, done, completed }),
        1 => (0..40_usize).prop_map(|nth| Step::HandIn { nth }),
        1 => (0..40_usize, prop::sample::select(vec!["timeout", "video is private", "?"]))
            .prop_map(|(nth, error)| Step::Fail { nth, error }),
        1 => (0..3_usize).prop_map(|worker| Step::Exit { worker }),
        2 => (1..50_u64).prop_map(|seconds| Step::Pass { seconds }),
        1 => Just(Step::Restart),
        3 => (0..60_usize).prop_map(|nth| Step::Repeat { nth }),
    ]
}

/// A command that was sent, with its key, and how it was answered.
struct Sent {
    path: String,
    key: String,
    body: Value,
    answer: Answer,
    /// Whether it left anything in the log. If not, nothing there can tell its position later.
    recorded: bool,
}

struct World {
    bench: Bench,
    job: String,
    sent: Vec<Sent>,
    claimed: Vec<Value>,
}

impl World {
    async fn new() -> Self {
        let bench = Bench::new().await;
        let job = bench.job_with_requests(3).await;
        Self { bench, job, sent: Vec::new(), claimed: Vec::new() }
    }

    async fn send(&mut self, path: String, body: Value) -> Answer {
        let key = format!("k{}", self.sent.len());
        let before = self.bench.head();
        let answer = self.bench.call("POST", &path).key(&key).body(&body).send().await;
        // A claim that came back empty registered its worker at most, and leaves its key free.
        let recorded = self.bench.head() > before && answer.body["items"] != json!([]);
        self.sent.push(Sent { path, key, body, answer: answer.clone(), recorded });
        answer
    }

    /// The piece of work, if there is any.
    fn nth(&self, nth: usize) -> Option<Value> {
        self.claimed.get(nth % self.claimed.len().max(1)).cloned()
    }

    async fn take(mut self, step: Step) -> Self {
        let job = self.job.clone();
        match step {
            Step::Matches(numbers) => {
                let taken = self
                    .send(format!("{job}/matches"), numbers.iter().map(|n| a_match(*n)).collect())
                    .await
                    .ok();
                assert_eq!(
                    taken["accepted"].as_u64().unwrap() + taken["duplicates"].as_u64().unwrap(),
                    numbers.len() as u64
                );
            }
            Step::Requests(numbers) => {
                let requests = numbers.iter().map(|n| request(&format!("q{n}"))).collect();
                self.send(format!("{job}/match-requests"), requests).await.ok();
            }
            Step::Claim { worker, max } => {
                let body = json!({"worker_id": format!("w{worker}"), "kinds": ["match_request"], "max": max});
                let claimed = self.send("/internal/work/claim".to_owned(), body).await.ok();
                self.claimed.extend(claimed["items"].as_array().unwrap().iter().cloned());
            }
            Step::Report { nth, done, completed } => {
                if let Some(item) = self.nth(nth) {
                    let body = json!([{
                        "request_id": item["request_id"], "lease_id": lease(&item), "candidates_processed": done,
                        "vector_pass_done": done, "ransac_checked": 0, "completed": completed,
                    }]);
                    self.send(format!("{job}/match-progress"), body).await;
                }
            }
            Step::HandIn { nth } => {
                if let Some(item) = self.nth(nth) {
                    self.send(format!("/internal/work/{}/complete", lease(&item)), json!({})).await;
                }
            }
            Step::Fail { nth, error } => {
                if let Some(item) = self.nth(nth) {
                    self.send(format!("/internal/work/{}/fail", lease(&item)), json!({"error": error})).await;
                }
            }
            Step::Exit { worker } => {
                self.send(format!("/internal/workers/w{worker}/exit"), json!({"exit_code": 1})).await;
            }
            Step::Pass { seconds } => self.bench.pass(seconds).await,
            Step::Restart => self.bench = self.bench.restarted().await,
            Step::Repeat { nth } => self.repeat(nth).await,
        }
        self.bench.rest().await;
        self
    }

    /// A command that was carried out is answered as before and leaves nothing in the log; three copies at once, too.
    async fn repeat(&mut self, nth: usize) {
        let Some(sent) = self.sent.get(nth % self.sent.len().max(1)) else { return };
        if sent.answer.status != 200 || !sent.recorded {
            return;
        }
        self.bench.rest().await;
        let before = self.bench.head();
        let again = || self.bench.call("POST", &sent.path).key(&sent.key).body(&sent.body).send();
        let copies = tokio::join!(again(), again(), again());
        for copy in [copies.0, copies.1, copies.2] {
            // What a request has by now may be more than when it was claimed first.
            let without_totals = |answer: &Answer| {
                let mut body = answer.body.clone();
                for item in body["items"].as_array_mut().into_iter().flatten() {
                    item["totals"].take();
                    item["attempt"].take();
                }
                (answer.status, body)
            };
            assert_eq!(without_totals(&copy), without_totals(&sent.answer), "{}", sent.path);
        }
        assert_eq!(self.bench.head(), before, "{}", sent.path);
    }
}

/// What holds of every log, whatever was sent: told from the events alone.
fn check(events: &[Envelope]) {
    let ids: BTreeSet<_> = events.iter().map(|envelope| envelope.id).collect();
    assert_eq!(ids.len(), events.len(), "an id was given twice");
    let mut found = BTreeSet::new();
    let mut requests = BTreeSet::new();
    let mut held: BTreeMap<RequestId, LeaseId> = BTreeMap::new();
    let mut completed = BTreeSet::new();
    for envelope in events {
        let Event::Matching(event) = &envelope.event else { continue };
        match event {
            MatchingEvent::MatchFound(event) => assert!(found.insert(event.match_id.clone())),
            MatchingEvent::MatchRequested(event) => assert!(requests.insert(event.request_id.clone())),
            MatchingEvent::MatchRequestClaimed(event) => {
                assert!(!completed.contains(&event.request_id));
                let before = held.insert(event.request_id.clone(), event.lease_id);
                assert_eq!(before, None, "claimed while it was held");
            }
            MatchingEvent::MatchRequestLeaseExpired(event) => {
                assert_eq!(held.remove(&event.request_id), Some(event.lease_id));
            }
            MatchingEvent::MatchRequestFailed(event) => {
                assert_eq!(held.remove(&event.request_id), Some(event.lease_id));
            }
            MatchingEvent::MatchProgressReported(event) => {
                assert_eq!(held.get(&event.request_id), event.lease_id.as_ref());
            }
            MatchingEvent::MatchRequestCompleted(event) => {
                assert_eq!(held.remove(&event.request_id), event.lease_id);
                assert!(completed.insert(event.request_id.clone()));
            }
            MatchingEvent::JobWorkerLost(event) => {
                held.retain(|_, lease| !event.lease_ids.contains(lease));
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_command_counts_once_whatever_happens_around_it(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for step in steps {
                world = world.take(step).await;
            }
            check(&world.bench.events().await);
        });
    }
}
