//! `matchbook demo`: creates a matching job from a folder of images and runs it through its phases, as a client would.
//!
//! Workers claim and process the match requests that are issued here.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use domain::image_matching::summary::Summary;
use domain::job::history::Status;
use event_schemas::job::Phase;
use serde_json::{Value, json};

use super::counted;
use matchbook::client::{Client, Server};
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
        let view = self.find_or_create(&client).await?;
        let id = text(&view, "job_id").to_owned();
        let job = format!("/jobs/{id}");
        self.issue_requests(&client, &view, &job, json).await?;
        if self.no_wait {
            return print_job(&id, json);
        }
        let summary = wait(&client, &job, json).await?;
        if summary.phase != Phase::Completed {
            for phase in ["evidence", "completed"] {
                let _: Value = client.put(&format!("{job}/phase"), &json!({ "phase": phase })).await?;
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
    async fn find_or_create(&self, client: &Client) -> Result<Value, Failure> {
        if let Some(id) = &self.job {
            return client.get(&format!("/jobs/{id}")).await;
        }
        if self.resume {
            for filter in [("status", "running"), ("status", "pending"), ("phase", "evidence")] {
                let query = [("kind", "product_video_matching"), ("q", self.name.as_str()), filter];
                let open = client.list("/jobs", &query, OPEN_JOBS_MAX).await?;
                if let Some(job) = open.items.into_iter().find(|job| text(job, "name") == self.name) {
                    return Ok(job);
                }
            }
        }
        client.post("/jobs", &json!({ "name": self.name })).await
    }

    /// Issues the match requests of a job that does not have any yet.
    async fn issue_requests(
        &self,
        client: &Client,
        view: &Value,
        job: &str,
        json: bool,
    ) -> Result<(), Failure> {
        // A new job has neither a status nor counters.
        let is_open = ["", "pending", "running"].contains(&text(view, "status"));
        let issued = view.pointer("/counters/match_requests").and_then(Value::as_u64).unwrap_or_default();
        if !is_open || issued > 0 {
            return Ok(());
        }
        let products = products(&self.media)?;
        let frames = images_in(&self.media.join("frames"))?;
        self.register(client, job, text(view, "phase"), &products, &frames).await?;
        if !json {
            let id = text(view, "job_id");
            print(&format_args!("job {id}: {} products, {} frames", products.len(), frames.len()))?;
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
        phase: &str,
        products: &BTreeMap<String, Vec<String>>,
        frames: &[String],
    ) -> Result<(), Failure> {
        let phases = ["queued", "collecting", "extracting", "matching"];
        let passed = phases.iter().position(|passed| *passed == phase).unwrap_or_default();
        let enter = async |phase: usize| match phases.get(phase) {
            Some(name) if phase > passed => {
                let entered = client.put::<Value>(&format!("{job}/phase"), &json!({ "phase": name })).await;
                entered.map(drop)
            }
            _ => Ok(()),
        };
        enter(1).await?;
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
        let _: Value = client.post(&format!("{job}/products"), &body.into()).await?;

        enter(2).await?;
        let video = "big-buck-bunny";
        let listed: Vec<Value> = frames
            .iter()
            .map(|frame| {
                let number: Option<u64> = frame.trim_start_matches('f').parse().ok();
                json!({ "frame_id": frame, "timestamp_ms": number.map(|n| n * 1000 / FRAMES_PER_SECOND) })
            })
            .collect();
        let _: Value =
            client.post(&format!("{job}/videos"), &json!([{ "video_id": video, "frames": listed }])).await?;

        enter(3).await?;
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
        let _: Value = client.post(&format!("{job}/match-requests"), &requests.into()).await?;
        Ok(())
    }
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
    let Ok(workers) = client.list("/internal/workers", &[], WORKERS_MAX).await else {
        return "waiting for the first report of a worker".to_owned();
    };
    let is_matcher = |worker: &&Value| {
        let kinds = worker.get("kinds").and_then(Value::as_array).into_iter().flatten();
        text(worker, "presence") == "present" && kinds.into_iter().any(|kind| kind == "match_request")
    };
    match workers.items.iter().filter(is_matcher).count() {
        0 => "no worker is present: start one with `matchbook-matcher`".to_owned(),
        1 => "1 worker is present, and has not reported its first candidate yet".to_owned(),
        present => format!("{present} workers are present, and have not reported their first candidates yet"),
    }
}

fn text<'a>(object: &'a Value, member: &str) -> &'a str {
    object.get(member).and_then(Value::as_str).unwrap_or_default()
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

fn print_job(id: &str, json: bool) -> Result<(), Failure> {
    if json {
        print(&json!({ "job_id": id }))?;
    }
    Ok(())
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
