//! `matchbook demo`: creates a matching job from a folder of images and runs it through its phases, as a client would.
//!
//! Workers claim and process the match requests that are issued here.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use commands::jobs::routes::{ChangedPhase, CreatedJob};
use domain::image_matching::summary::Summary;
use domain::job::history::Status;
use domain::job::view::JobView;
use event_schemas::ids::JobId;
use event_schemas::job::Phase;
use event_schemas::worker::WorkKind;
use projections::worker::WorkerPresence;
use read_api::routes::worker::Worker;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::counted;
use matchbook::client::{Client, List, Server};
use matchbook::failure::{Failure, print, print_progress};

/// The frames per second of the clip that the frames were taken from.
const FRAMES_PER_SECOND: u64 = 25;
const POLL_EVERY: Duration = Duration::from_millis(500);
/// The most open jobs among which one with the same name is searched.
const OPEN_JOBS_MAX: usize = 500;
/// The most workers that are looked at.
const WORKERS_MAX: usize = 500;

#[derive(Args, Debug)]
pub(crate) struct Demo {
    #[command(flatten)]
    server: Server,
    /// Folder with `products/<product>-<n>.jpg` and `frames/f<number>.jpg`
    #[arg(long, value_name = "FOLDER", default_value = "examples/data/matching")]
    media: PathBuf,
    /// Name of the job
    #[arg(long, value_name = "TEXT", default_value = "Big Buck Bunny products")]
    name: String,
    /// Issue the match requests and return, without waiting for the end of the job
    #[arg(long)]
    no_wait: bool,
    /// Continue with this job, which an earlier run created
    #[arg(long, value_name = "ID", conflicts_with = "no_wait")]
    job: Option<uuid::Uuid>,
    /// Continue with the newest open job of this name, if there is one, instead of creating another
    #[arg(long, conflicts_with = "job")]
    resume: bool,
}

impl Demo {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        let client = Client::new(self.server.clone())?;
        let found = self.find_or_create(&client).await?;
        let job = format!("/jobs/{}", found.id);
        if found.needs_requests {
            self.issue_requests(&client, &found, &job, json).await?;
        }
        if self.no_wait {
            return if json { print(&json!({ "job_id": found.id })) } else { Ok(()) };
        }
        let summary = wait(&client, &job, json).await?;
        if summary.phase != Phase::Completed {
            for phase in [Phase::Evidence, Phase::Completed] {
                enter(&client, &job, phase).await?;
            }
        }
        if json {
            let summary: Summary = client.get(&format!("{job}/matching/summary")).await?;
            print(&json!(summary))?;
        } else {
            print(&format_args!(
                "done: {} of {} candidates processed, {} found, {} with an evidence image",
                summary.candidates_processed,
                summary.candidates_total,
                counted(summary.matches_found, "match", "matches"),
                summary.matches_with_evidence,
            ))?;
        }
        Ok(())
    }

    /// The job to run.
    async fn find_or_create(&self, client: &Client) -> Result<DemoJob, Failure> {
        if let Some(id) = &self.job {
            let job: JobView = client.get(&format!("/jobs/{id}")).await?;
            return Ok(job.into());
        }
        if self.resume {
            for filter in [("status", "running"), ("status", "pending"), ("phase", "evidence")] {
                let query = [("kind", "product_video_matching"), ("q", self.name.as_str()), filter];
                let open: List<JobView> = client.list("/jobs", &query, OPEN_JOBS_MAX).await?;
                let mut jobs = open.items.into_iter();
                if let Some(job) = jobs.find(|job| job.name.as_ref() == Some(&self.name)) {
                    return Ok(job.into());
                }
            }
        }
        let created: CreatedJob = client.post("/jobs", &json!({ "name": self.name })).await?;
        Ok(DemoJob { id: created.job_id, phase: created.phase, needs_requests: true })
    }

    async fn issue_requests(
        &self,
        client: &Client,
        found: &DemoJob,
        job: &str,
        json: bool,
    ) -> Result<(), Failure> {
        let products = products(&self.media)?;
        let frames = images_in(&self.media.join("frames"))?;
        self.register(client, job, found.phase, &products, &frames).await?;
        if !json {
            let (id, products) = (found.id, products.len());
            print(&format_args!("job {id}: {products} products, {} frames", frames.len()))?;
            print(&format_args!("watch it at {}/ or {}{job}/matching/summary", client.url(), client.url()))?;
        }
        Ok(())
    }

    /// Registers products and frames, and issues one match request for each product. A job in a later phase than `queued`
    /// was left by an interrupted run, and is not moved back.
    async fn register(
        &self,
        client: &Client,
        job: &str,
        phase: Phase,
        products: &BTreeMap<String, Vec<String>>,
        frames: &[String],
    ) -> Result<(), Failure> {
        let phases = [Phase::Queued, Phase::Collecting, Phase::Extracting, Phase::Matching];
        let passed = phases.iter().position(|passed| *passed == phase).unwrap_or_default();
        let enter_next = async |next: usize| match phases.get(next) {
            Some(phase) if next > passed => enter(client, job, *phase).await,
            _ => Ok(()),
        };
        enter_next(1).await?;
        let body: Vec<Value> = products
            .iter()
            .map(|(product, images)| {
                let images: Vec<Value> = images
                    .iter()
                    .map(|image| json!({ "img_id": image, "url": format!("products/{image}.jpg") }))
                    .collect();
                json!({ "product_id": product, "images": images })
            })
            .collect();
        let _: IgnoredAny = client.post(&format!("{job}/products"), &body.into()).await?;

        enter_next(2).await?;
        let video = "big-buck-bunny";
        let listed: Vec<Value> = frames
            .iter()
            .map(|frame| {
                let number: Option<u64> = frame.trim_start_matches('f').parse().ok();
                json!({ "frame_id": frame, "timestamp_ms": number.map(|n| n * 1000 / FRAMES_PER_SECOND) })
            })
            .collect();
        let videos = json!([{ "video_id": video, "frames": listed }]);
        let _: IgnoredAny = client.post(&format!("{job}/videos"), &videos).await?;

        enter_next(3).await?;
        let requests: Vec<Value> = products
            .iter()
            .map(|(product, images)| {
                json!({
                    "request_id": format!("{product}:{video}"),
                    "product_id": product,
                    "video_id": video,
                    "candidates": images.len() * frames.len(),
                })
            })
            .collect();
        let _: IgnoredAny = client.post(&format!("{job}/match-requests"), &requests.into()).await?;
        Ok(())
    }
}

/// The job that the demo works on.
struct DemoJob {
    id: JobId,
    phase: Phase,
    /// It is open, and has no match requests yet.
    needs_requests: bool,
}

impl From<JobView> for DemoJob {
    fn from(job: JobView) -> Self {
        let is_open = matches!(job.status, Status::Pending | Status::Running);
        let needs_requests = is_open && job.counters.match_requests == 0;
        Self { id: job.id, phase: job.phase, needs_requests }
    }
}

async fn enter(client: &Client, job: &str, phase: Phase) -> Result<(), Failure> {
    let _: ChangedPhase = client.put(&format!("{job}/phase"), &json!({ "phase": phase })).await?;
    Ok(())
}

/// Polls the summary until every request is completed.
async fn wait(client: &Client, job: &str, json: bool) -> Result<Summary, Failure> {
    let mut shown = String::new();
    loop {
        let summary: Summary = client.get(&format!("{job}/matching/summary")).await?;
        let is_done = summary.queue_depth == 0 && summary.candidates_unprocessed == 0;
        if summary.status != Status::Running && summary.status != Status::Completed {
            let status = summary.status.into_str();
            return Err(Failure::Failed(format!("the job ended early: it is {status}")));
        }
        let mut line = progress_line(&summary);
        if summary.candidates_processed == 0 && summary.blockers.is_empty() && !is_done {
            line.push_str(&format!(" [{}]", reason_for_no_progress(client).await));
        }
        if !json && line != shown {
            print_progress(&line)?;
            shown = line;
        }
        if is_done || summary.status == Status::Completed {
            if !json && std::io::stdout().is_terminal() {
                print(&"")?;
            }
            return Ok(summary);
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// Why no candidate is processed yet, for a job without blockers.
async fn reason_for_no_progress(client: &Client) -> String {
    let Ok(workers) = client.list::<Worker>("/internal/workers", &[], WORKERS_MAX).await else {
        return "waiting for the first report of a worker".to_owned();
    };
    let is_matcher = |Worker { view, .. }: &&Worker| {
        view.presence == WorkerPresence::Present && view.kinds.contains(&WorkKind::MatchRequest)
    };
    match workers.items.iter().filter(is_matcher).count() {
        0 => "no worker is present: start one with `matchbook-matcher`".to_owned(),
        1 => "1 worker is present, and has not reported its first candidate yet".to_owned(),
        present => format!("{present} workers are present, and have not reported their first candidates yet"),
    }
}

fn progress_line(summary: &Summary) -> String {
    let (done, total) = (summary.candidates_processed, summary.candidates_total.max(1));
    let filled = usize::try_from(done * 30 / total).unwrap_or(0).min(30);
    let eta = match summary.eta_seconds {
        Some(seconds) => format!(", about {seconds} s left"),
        None => String::new(),
    };
    let blockers = &summary.blockers;
    let blockers = if blockers.is_empty() { String::new() } else { format!(" [{}]", blockers.join("; ")) };
    format!(
        "{}{} {done}/{total} candidates, {}{eta}{blockers}",
        "█".repeat(filled),
        "░".repeat(30 - filled),
        counted(summary.matches_found, "match", "matches"),
    )
}

/// The images of each product: `hedge-1` and `hedge-2` are two images of `hedge`.
fn products(media: &Path) -> Result<BTreeMap<String, Vec<String>>, Failure> {
    let mut products: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for image in images_in(&media.join("products"))? {
        let product = image.rsplit_once('-').map_or(image.as_str(), |(product, _)| product);
        products.entry(product.to_owned()).or_default().push(image);
    }
    Ok(products)
}

/// The names of the images in a folder, without their extensions, sorted.
fn images_in(folder: &Path) -> Result<Vec<String>, Failure> {
    let listing = std::fs::read_dir(folder).map_err(|error| {
        Failure::Usage(format!("cannot list {}: {error}; set the folder with --media", folder.display()))
    })?;
    let mut names: Vec<String> = listing
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let is_image = path.extension().is_some_and(|extension| extension == "jpg" || extension == "png");
            is_image.then(|| path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned))?
        })
        .collect();
    names.sort();
    if names.is_empty() {
        return Err(Failure::Usage(format!("there are no .jpg or .png images in {}", folder.display())));
    }
    Ok(names)
}
