//! Callers who send commands again until they know the outcome, and remember what they were told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::server::Server;

/// A caller waits so long before it sends a command again.
const PAUSE: Duration = Duration::from_millis(5);

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Acknowledged,
    /// The caller never heard, and did not ask again.
    Unknown,
}

/// Callers at work on one job.
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
    /// By what the command alone has brought about.
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
                let dice = Dice(seed ^ caller as u64);
                tokio::spawn(Arc::clone(&shared).call(caller, dice))
            })
            .collect();
        Self { shared, callers }
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// How often a command was sent again because its outcome was not known.
    pub(crate) fn resent(&self) -> u64 {
        self.shared.resent.load(Ordering::Relaxed)
    }

    /// Lets every caller end the command that it is at, and answers what became of all of them.
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
    async fn call(self: Arc<Self>, caller: usize, mut dice: Dice) {
        let mut turn = 0_u64;
        while !self.stop.load(Ordering::Relaxed) {
            turn += 1;
            let name = format!("{caller}-{turn}");
            let (path, body, traces) = match dice.below(8) {
                0 => ("/jobs".to_owned(), json!({ "name": name }), vec![format!("job {name}")]),
                1..4 if turn <= self.frames as u64 => self.progress(caller, turn),
                _ => self.matches(caller, &name, 1 + dice.below(5)),
            };
            // Some callers give up when they do not hear; then it must have happened once or not at all.
            let patient = dice.below(8) > 0;
            let outcome = self.send(&path, &body, &name, patient).await;
            self.outcomes.lock().unwrap().extend(traces.into_iter().map(|trace| (trace, outcome)));
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
        let traces = (0..count).map(|n| format!("match m-{name}-{n}")).collect();
        (format!("/jobs/{}/matches", self.job), found.into(), traces)
    }

    async fn send(&self, path: &str, body: &Value, key: &str, patient: bool) -> Outcome {
        loop {
            let request =
                self.http.post(format!("{}{path}", self.url)).header("Idempotency-Key", key).json(body);
            match request.send().await {
                Ok(answer) if answer.status().is_success() => {
                    // The head of an answer may arrive where its body does not; what counts is the head.
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                    return Outcome::Acknowledged;
                }
                Ok(answer) if matches!(answer.status().as_u16(), 503 | 507) => {}
                Ok(answer) => {
                    let status = answer.status();
                    let text = answer.text().await.unwrap_or_default();
                    self.refused.lock().unwrap().push(format!("{path} {body}: {status} {text}"));
                    return Outcome::Unknown;
                }
                Err(error) if error.is_connect() => {}
                Err(_) if !patient => return Outcome::Unknown,
                Err(_) => {}
            }
            self.resent.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Chance that can be repeated: SplitMix64.
#[derive(Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// How often each command, known by its trace, is in the log.
pub(crate) fn traces(events: &[Value]) -> BTreeMap<String, u64> {
    let mut seen = BTreeMap::new();
    for event in events {
        let data = &event["data"];
        let trace = match event["type"].as_str().unwrap() {
            "JobCreated" => format!("job {}", data["name"].as_str().unwrap()),
            "MatchFound" => format!("match {}", data["match_id"].as_str().unwrap()),
            "MatchProgressReported" => {
                format!("progress {} {}", data["request_id"].as_str().unwrap(), data["candidates_processed"])
            }
            _ => continue,
        };
        *seen.entry(trace).or_insert(0) += 1;
    }
    seen
}
