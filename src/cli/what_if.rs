//! `matchbook what-if`: what another configuration would have done with the history of a running server.

use std::time::Duration;

use clap::Args;
use domain::what_if::Spread;
use domain::what_if::interval::Estimate;
use domain::what_if::off_policy::Evaluation;
use domain::what_if::pool::PoolOutcomes;
use domain::what_if::retry::RetryOutcomes;
use read_api::routes::what_if::{WhatIf, WhatIfKind, WhatIfStatus};
use serde_json::{Value, json};

use super::events::progress::ProgressReporter;
use super::{counted, text};
use matchbook::client::{Client, Server};
use matchbook::failure::{Failure, print};

/// The interval of the questions whether the run has ended.
const POLL_EVERY: Duration = Duration::from_millis(250);

const EXAMPLES: &str = r#"Examples:
  matchbook what-if pool --configuration '{"pool_key": "blitz", "settings": {"window": 200}}'
  matchbook what-if retry --configuration '{"network": {"retries": 5, "base_seconds": 2, "cap_seconds": 60, "backoff": "exponential"}}'
  matchbook what-if ranking --configuration '{"context": "feed", "weights": {"long_term": 0.6, "session": 0.4, "query": 0, "product": 0, "collaborative": 0.5}}'"#;

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct WhatIfCommand {
    #[command(flatten)]
    server: Server,
    /// What is compared: `pool`, `retry` or `ranking`
    #[arg(value_name = "KIND", value_parser = kind)]
    kind: WhatIfKind,
    /// What is to be different, as JSON
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    configuration: Value,
    /// The point after which things count: a log position or an instant. Default: the start of the log
    #[arg(long, value_name = "POINT")]
    from: Option<String>,
    /// The last point that counts. Default: now
    #[arg(long, value_name = "POINT")]
    to: Option<String>,
}

fn kind(text: &str) -> Result<WhatIfKind, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

fn json_object(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(members)) => Ok(Value::Object(members)),
        Ok(_) => Err("write an object, such as {\"pool_key\": \"blitz\", \"settings\": {}}".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl WhatIfCommand {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        let client = Client::new(self.server)?;
        let mut body = json!({"kind": self.kind, "configuration": self.configuration});
        for (name, point) in [("from", self.from), ("to", self.to)] {
            if let Some(point) = point {
                body[name] = point.into();
            }
        }
        let mut run: WhatIf = client.post("/internal/what-if", &body).await?;
        let mut reporter = ProgressReporter::new("read");
        while run.status == WhatIfStatus::Running {
            tokio::time::sleep(POLL_EVERY).await;
            run = client.get(&format!("/internal/what-if/{}", run.id)).await?;
            let (at, target) = (run.progress.at.0, run.progress.target.0);
            reporter.share("positions", at, at, target);
        }
        if let Some(error) = &run.error {
            return Err(Failure::Failed(format!("the run failed: {error}")));
        }
        if json { print(&json!(run)) } else { print(&report(&run)) }
    }
}

fn spread(what: &str, spread: Option<Spread>) -> String {
    spread.map_or_else(
        || format!("{what} –"),
        |of| format!("{what} {:.1} (p50 {:.1}, p95 {:.1}, max {:.1})", of.mean, of.p50, of.p95, of.max),
    )
}

fn of_pool(name: &str, of: &PoolOutcomes) -> String {
    let PoolOutcomes { matches, left, expired, waiting, wait_seconds, rating_distance } = of;
    format!(
        "{name}: {matches} matches, {left} left, {expired} expired, {waiting} waiting; {}; {}",
        spread("mean wait in seconds", *wait_seconds),
        spread("mean rating distance", *rating_distance),
    )
}

fn of_retries(name: &str, of: &RetryOutcomes) -> String {
    let RetryOutcomes { retries, completed, stopped, cancelled, open, cannot_tell, delay_seconds } = of;
    format!(
        "{name}: {retries} retries, {completed} completed, {stopped} stopped, {cancelled} cancelled, {open} open, {cannot_tell} \
         cannot be told; {}",
        spread("mean delay in seconds", *delay_seconds),
    )
}

fn rate(of: &Estimate) -> String {
    format!("{:.4} ({:.4} to {:.4})", of.value, of.low, of.high)
}

fn of_rewards(what: &str, of: &Evaluation) -> Vec<String> {
    let served = of.served.as_ref().map_or_else(|| "–".to_owned(), rate);
    let (slots, users, coverage) = (of.slots, of.users, of.coverage);
    let found = match (&of.estimates, of.cannot_tell) {
        (Some(of), _) => {
            let [ips, snips, doubly_robust] = [&of.ips, &of.snips, &of.doubly_robust].map(rate);
            format!("IPS {ips}, SNIPS {snips}, doubly robust {doubly_robust}")
        }
        (None, reason) => format!("cannot tell: {}", text(&reason)),
    };
    vec![
        format!(
            "{what}: {slots} slots of {users} users, coverage {coverage:.3}, effective sample size {:.0}",
            of.effective_sample_size
        ),
        format!("  served: {served}"),
        format!("  other:  {found}"),
    ]
}

/// The result, with what it rests on.
fn report(run: &WhatIf) -> String {
    let mut lines = vec![format!("positions {} to {} of the log", run.from, run.to)];
    if let Some(of) = &run.pool {
        lines.push(format!("settings in force: {}", json!(of.recorded_settings)));
        lines.push(format!("other settings:    {}", json!(of.other_settings)));
        lines.push(format!("{} entries joined", of.comparison.joined));
        lines.push(of_pool("recorded", &of.comparison.recorded));
        lines.push(of_pool("other   ", &of.comparison.other));
        lines.push(format!("assumption: {}", of.assumption));
    }
    if let Some(of) = &run.retry {
        lines.push(format!("policies in force: {}", json!(of.recorded_policies)));
        lines.push(format!("other policies:    {}", json!(of.other_policies)));
        lines.push(format!("{} jobs failed {} times", of.comparison.jobs, of.comparison.failures));
        lines.push(of_retries("recorded", &of.comparison.recorded));
        lines.push(of_retries("other   ", &of.comparison.other));
        let (lost, saved) = (of.comparison.lost_completions, of.comparison.saved_attempts);
        lines.push(format!("the other policies lose {lost} completions and save {saved} attempts"));
        lines.push(format!("assumption: {}", of.assumption));
    }
    if let Some(of) = &run.ranking {
        for served in &of.comparison.served_weights {
            lines.push(format!(
                "served weights: {} ({})",
                json!(served.weights),
                counted(served.lists, "list", "lists")
            ));
        }
        lines.push(format!("other weights:  {}", json!(of.other.weights)));
        lines.push(format!("{:.1} % of the products are the same", 100.0 * of.comparison.same_products));
        lines.extend(of_rewards("clicks", &of.comparison.clicks));
        lines.extend(of_rewards("purchases", &of.comparison.purchases));
        lines.push(format!("assumption: {}", of.assumption));
    }
    lines.join("\n")
}
