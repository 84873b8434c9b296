//! The program: flags, environment, logging, signals and exit codes.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use matchbook_shop::api::{Api, Failure};
use matchbook_shop::customer::Shop;
use matchbook_shop::fill::Filled;
use matchbook_shop::{fill, visit};
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
}

#[derive(Debug, Args)]
struct Common {
    /// The address of the Matchbook server.
    #[arg(long, env = "MATCHBOOK_URL", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// A bearer token with the role `service`, if the server requires one.
    #[arg(long, env = "MATCHBOOK_TOKEN", hide_env_values = true)]
    token: Option<String>,
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
        Ok((Api::new(&self.url, self.token)?, shop, self.customers as usize))
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.map_err(|error| Failure::Client(error.to_string())).and_then(|runtime| {
        runtime.block_on(async {
            match cli.command {
                Command::Fill(common) => fill(common).await,
                Command::Visit { common, fill, rate } => visit(common, fill, rate).await,
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
