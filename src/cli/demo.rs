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
use serde_json::{Value, json};

use matchbook::client::{Client, Server};
use matchbook::failure::{Failure, print, print_progress};

/// The frames per second of the clip that the frames were taken from.
const FRAMES_PER_SECOND: u64 = 25;
const POLL_EVERY: Duration = Duration::from_millis(500);

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
    /// Continue with a job that was created with --no-wait
    #[arg(long, value_name = "ID", conflicts_with = "no_wait")]
    job: Option<String>,
}

impl Demo {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        let client = Client::new(self.server.clone())?;
        let id = match &self.job {
            Some(id) => id.clone(),
            None => self.create(&client, json).await?,
        };
        if self.no_wait {
            return print_job(&id, json);
        }
        let job = format!("/jobs/{id}");
        let summary = wait(&client, &job, json).await?;
        for phase in ["evidence", "completed"] {
            let _: Value = client.put(&format!("{job}/phase"), &json!({ "phase": phase })).await?;
        }
        if json {
            let summary: Summary = client.get(&format!("{job}/matching/summary")).await?;
            print(&json!(summary))?;
        } else {
            print(&format_args!(
                "done: {} of {} candidates processed, {} matches found, {} with an evidence image",
                summary.candidates_processed,
                summary.candidates_total,
                summary.matches_found,
                summary.matches_with_evidence,
            ))?;
        }
        Ok(())
    }

    /// Creates the job and issues its match requests. Returns its id.
    async fn create(&self, client: &Client, json: bool) -> Result<String, Failure> {
        let products = products(&self.media)?;
        let frames = images_in(&self.media.join("frames"))?;
        let job: Value = client.post("/jobs", &json!({ "name": self.name })).await?;
        let id = job.get("job_id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let job = format!("/jobs/{id}");
        self.register(client, &job, &products, &frames).await?;
        if !json {
            print(&format_args!("job {id}: {} products, {} frames", products.len(), frames.len()))?;
            print(&format_args!("watch it at {}/ or {}{job}/matching/summary", client.url(), client.url()))?;
        }
        Ok(id)
    }

    /// Registers products and frames, and issues one match request for each product.
    async fn register(
        &self,
        client: &Client,
        job: &str,
        products: &BTreeMap<String, Vec<String>>,
        frames: &[String],
    ) -> Result<(), Failure> {
        let phase = |phase: &'static str| json!({ "phase": phase });
        let _: Value = client.put(&format!("{job}/phase"), &phase("collecting")).await?;
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

        let _: Value = client.put(&format!("{job}/phase"), &phase("extracting")).await?;
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

        let _: Value = client.put(&format!("{job}/phase"), &phase("matching")).await?;
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
        let line = progress_line(&summary);
        if !json && line != shown {
            print_progress(&line)?;
            shown = line;
        }
        if summary.status != Status::Running {
            let status = summary.status.into_str();
            return Err(Failure::Failed(format!("the job ended early: it is {status}")));
        }
        if summary.queue_depth == 0 && summary.candidates_unprocessed == 0 {
            if !json && std::io::stdout().is_terminal() {
                print(&"")?;
            }
            return Ok(summary);
        }
        tokio::time::sleep(POLL_EVERY).await;
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
        "{}{} {done}/{total} candidates, {} matches{eta}{blockers}",
        "█".repeat(filled),
        "░".repeat(30 - filled),
        summary.matches_found,
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
