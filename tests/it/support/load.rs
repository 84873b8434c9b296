//! Callers that resend commands until their outcome is known, and record it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::server::Server;

/// The pause of a caller before it resends a command.
const RETRY_DELAY: Duration = Duration::from_millis(5);

/// The outcome of a command, as its caller knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Acknowledged,
    /// The caller received no response and did not resend the command.
    Unknown,
}

/// Callers that send commands to one job.
pub(crate) struct Load {
    shared: Arc<Shared>,
    callers: Vec<tokio::task::JoinHandle<()>>,
}

struct Shared {
    http: reqwest::Client,
    url: String,
    job: String,
    frames: usize,
    stop: AtomicBool,
    acknowledged: AtomicU64,
    resent: AtomicU64,
    refused: Mutex<Vec<String>>,
    /// The outcomes by the effect that identifies each command in the log.
    outcomes: Mutex<BTreeMap<String, Outcome>>,
}

impl Load {
    /// One caller for each match request of the job, named `r0`, `r1`, …
    pub(crate) fn start(server: &Server, job: &str, callers: usize, frames: usize, seed: u64) -> Self {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().unwrap();
        let shared = Arc::new(Shared {
            http,
            url: server.url.clone(),
            job: job.to_owned(),
            frames,
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            resent: AtomicU64::new(0),
            refused: Mutex::default(),
            outcomes: Mutex::default(),
        });
        let callers = (0..callers)
            .map(|caller| {
                let rng = SeededRng(seed ^ caller as u64);
                tokio::spawn(Arc::clone(&shared).call(caller, rng))
            })
            .collect();
        Self { shared, callers }
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// The number of commands that were resent because their outcome was not known.
    pub(crate) fn resent(&self) -> u64 {
        self.shared.resent.load(Ordering::Relaxed)
    }

    /// Lets every caller finish its current command, and returns the outcomes of all commands.
    pub(crate) async fn finish(self) -> BTreeMap<String, Outcome> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.await.unwrap();
        }
        let refused = self.shared.refused.lock().unwrap();
        assert!(refused.is_empty(), "{refused:?}");
        self.shared.outcomes.lock().unwrap().clone()
    }
}

impl Shared {
    async fn call(self: Arc<Self>, caller: usize, mut rng: SeededRng) {
        let mut turn = 0_u64;
        while !self.stop.load(Ordering::Relaxed) {
            turn += 1;
            let name = format!("{caller}-{turn}");
            let (path, body, effects) = match rng.below(8) {
                0 => ("/jobs".to_owned(), json!({ "name": name }), vec![format!("job {name}")]),
                1..4 if turn <= self.frames as u64 => self.progress(caller, turn),
                _ => self.matches(caller, &name, 1 + rng.below(5)),
            };
            // Some callers give up without a response; their command must then have happened once or not at all.
            let patient = rng.below(8) > 0;
            let outcome = self.send(&path, &body, &name, patient).await;
            self.outcomes.lock().unwrap().extend(effects.into_iter().map(|effect| (effect, outcome)));
        }
    }

    fn progress(&self, caller: usize, turn: u64) -> (String, Value, Vec<String>) {
        let body = json!([{ "request_id": format!("r{caller}"), "candidates_processed": turn,
                            "vector_pass_done": turn, "ransac_checked": turn }]);
        (format!("/jobs/{}/match-progress", self.job), body, vec![format!("progress r{caller} {turn}")])
    }

    fn matches(&self, caller: usize, name: &str, count: u64) -> (String, Value, Vec<String>) {
        let found: Vec<Value> = (0..count)
            .map(|n| {
                json!({ "match_id": format!("m-{name}-{n}"), "product_id": format!("p{caller}"),
                        "video_id": "v", "img_id": format!("p{caller}-1"),
                        "frame_id": format!("f{}", n as usize % self.frames), "score": n as f64 / 7.0 })
            })
            .collect();
        let effects = (0..count).map(|n| format!("match m-{name}-{n}")).collect();
        (format!("/jobs/{}/matches", self.job), found.into(), effects)
    }

    async fn send(&self, path: &str, body: &Value, key: &str, patient: bool) -> Outcome {
        loop {
            let request =
                self.http.post(format!("{}{path}", self.url)).header("Idempotency-Key", key).json(body);
            match request.send().await {
                Ok(response) if response.status().is_success() => {
                    // The status counts, even if the body of the response does not arrive.
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                    return Outcome::Acknowledged;
                }
                Ok(response) if matches!(response.status().as_u16(), 503 | 507) => {}
                Ok(response) => {
                    let status = response.status();
                    let text = response.text().await.unwrap_or_default();
                    self.refused.lock().unwrap().push(format!("{path} {body}: {status} {text}"));
                    return Outcome::Unknown;
                }
                Err(error) if error.is_connect() => {}
                Err(_) if !patient => return Outcome::Unknown,
                Err(_) => {}
            }
            self.resent.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }
}

/// A repeatable random number generator: SplitMix64.
#[derive(Debug)]
pub(crate) struct SeededRng(pub(crate) u64);

impl SeededRng {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// The number of times that the effect of each command is in the log.
pub(crate) fn count_effects(events: &[Value]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for event in events {
        let data = &event["data"];
        let effect = match event["type"].as_str().unwrap() {
            "JobCreated" => format!("job {}", data["name"].as_str().unwrap()),
            "MatchFound" => format!("match {}", data["match_id"].as_str().unwrap()),
            "MatchProgressReported" => {
                format!("progress {} {}", data["request_id"].as_str().unwrap(), data["candidates_processed"])
            }
            _ => continue,
        };
        *counts.entry(effect).or_insert(0) += 1;
    }
    counts
}
