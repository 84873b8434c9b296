//! The program: flags, environment, logging, signals and exit codes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use matchbook_shop::api::{Api, Failure};
use matchbook_shop::customer::Shop;
use matchbook_shop::fill::Filled;
use matchbook_shop::gallery::{Gallery, GalleryError};
use matchbook_shop::{cutouts, fill, visit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A simulated shop for a Matchbook server: a catalogue, what customers did, and customers that visit it now.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send the catalogue and what customers did in the last month. A server that has them already records nothing.
    Fill(Common),
    /// Let customers visit the shop until the program is stopped.
    Visit {
        #[command(flatten)]
        common: Common,
        /// Fill the shop first.
        #[arg(long)]
        fill: bool,
        /// The visits per minute.
        #[arg(long, env = "SHOP_RATE", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=60_000))]
        rate: u32,
    },
    /// Serve the pictures of a matching job, and send its products and cutouts of its frames to the server, for matching.
    Cutouts {
        #[command(flatten)]
        server: Server,
        /// The folder with `products/<product>-<n>.jpg` and `frames/<frame>.jpg`.
        #[arg(long, value_name = "FOLDER", default_value = "examples/data/matching")]
        media: PathBuf,
        /// The address at which the pictures are served.
        #[arg(long, env = "SHOP_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8091")]
        listen: SocketAddr,
        /// The model whose vectors are extracted, as soon as a worker has registered it; without it, none are.
        #[arg(long, env = "SHOP_MODEL", value_name = "ID")]
        model: Option<String>,
    },
}

#[derive(Debug, Args)]
struct Server {
    /// The address of the Matchbook server.
    #[arg(long, env = "MATCHBOOK_URL", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// A bearer token with the role `service`, if the server requires one.
    #[arg(long, env = "MATCHBOOK_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

impl Server {
    fn open(self) -> Result<Api, Failure> {
        Api::new(&self.url, self.token)
    }
}

/// Why the program ends.
#[derive(Debug, thiserror::Error)]
enum ProgramError {
    #[error(transparent)]
    Call(#[from] Failure),
    #[error(transparent)]
    Gallery(#[from] GalleryError),
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
}

#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    server: Server,
    /// The seed of the products and the customers.
    #[arg(long, env = "SHOP_SEED", default_value_t = 1)]
    seed: u64,
    /// The number of products.
    #[arg(long, env = "SHOP_PRODUCTS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    products: u32,
    /// The number of customers.
    #[arg(long, env = "SHOP_CUSTOMERS", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=9_999))]
    customers: u32,
}

impl Common {
    fn open(self) -> Result<(Api, Shop, usize), Failure> {
        let shop = Shop::new(self.seed, self.products as usize);
        Ok((self.server.open()?, shop, self.customers as usize))
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Client(error.to_string()).into());
    let ended: Result<(), ProgramError> = runtime.and_then(|runtime| {
        runtime.block_on(async {
            match cli.command {
                Command::Fill(common) => Ok(fill(common).await?),
                Command::Visit { common, fill, rate } => Ok(visit(common, fill, rate).await?),
                Command::Cutouts { server, media, listen, model } => {
                    offer(server.open()?, &media, listen, model.as_deref()).await
                }
            }
        })
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the program failed");
            ExitCode::FAILURE
        }
    }
}

async fn fill(common: Common) -> Result<(), Failure> {
    let (api, shop, customers) = common.open()?;
    let started = Instant::now();
    report(fill::fill(&api, &shop, customers).await?, started);
    Ok(())
}

async fn visit(common: Common, fill: bool, rate: u32) -> Result<(), Failure> {
    let stop = stop().map_err(|error| Failure::Client(error.to_string()))?;
    tokio::select! {
        ended = visits(common, fill, rate) => ended,
        () = stop => {
            tracing::info!("customers stopped");
            Ok(())
        }
    }
}

async fn visits(common: Common, fill: bool, rate: u32) -> Result<(), Failure> {
    let (api, shop, customers) = common.open()?;
    if fill {
        let started = Instant::now();
        report(fill::fill(&api, &shop, customers).await?, started);
    }
    let mut random = fastrand::Rng::new();
    let mut due = tokio::time::interval(Duration::from_secs(60) / rate);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tracing::info!(customers, rate, "customers visit the shop");
    loop {
        due.tick().await;
        let mut customer = visit::next(&shop, customers, &mut random);
        match visit::visit(&api, &shop, &mut customer).await {
            Ok(interactions) => tracing::debug!(customer = customer.id, interactions, "visited"),
            Err(error) => tracing::warn!(customer = customer.id, %error, "the visit ended early"),
        }
    }
}

/// Serves the pictures of a folder until the program is stopped, and sends what they show to the server.
async fn offer(api: Api, media: &Path, listen: SocketAddr, model: Option<&str>) -> Result<(), ProgramError> {
    let stop = stop().map_err(|error| Failure::Client(error.to_string()))?;
    let gallery = Arc::new(Gallery::read(media)?);
    let listener = TcpListener::bind(listen).await.map_err(|error| ProgramError::Listen(listen, error))?;
    let base = format!("http://{listen}");
    let serving = Arc::clone(&gallery).serve(listener);
    let sending = async {
        cutouts::push(&api, &gallery, &base).await?;
        let (products, cutouts) = (gallery.products.len(), gallery.cutouts.len());
        tracing::info!("pictures are served at {base}: {products} products and {cutouts} cutouts are sent");
        if let Some(model) = model {
            cutouts::extract(&api, &gallery, &base, model).await?;
            tracing::info!(model, "extractions are started");
        }
        // The pictures are served until the program is stopped.
        std::future::pending::<Result<Infallible, Failure>>().await
    };
    tokio::select! {
        () = stop => Ok(()),
        never = serving => match never {},
        sent = sending => match sent? {},
    }
}

fn report(filled: Filled, started: Instant) {
    let Filled { products, interactions } = filled;
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!(
        "the shop is filled: {products} products, {interactions} new interactions, in {seconds:.1} s"
    );
}

/// Installs the signal handlers before anything else, so that no signal is missed.
fn stop() -> Result<impl Future<Output = ()>, std::io::Error> {
    let (mut interrupt, mut terminate): (Signal, Signal) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
