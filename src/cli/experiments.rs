//! `matchbook experiments`: the results of comparisons of ranking variants.

use clap::{Args, Subcommand};
use domain::what_if::interval::Estimate;
use read_api::routes::experiment::{ExperimentResults, SlotResults, VariantResults};
use serde_json::json;

use super::counted;
use matchbook::client::{Client, Server, encoded};
use matchbook::failure::{Failure, print};

#[derive(Subcommand, Debug)]
pub(crate) enum Experiments {
    /// Show the results of an experiment, by ranking variant
    Show(Show),
}

#[derive(Args, Debug)]
pub(crate) struct Show {
    #[command(flatten)]
    server: Server,
    /// The name of the experiment
    #[arg(value_name = "NAME")]
    name: String,
}

impl Experiments {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        let Self::Show(show) = self;
        let path = format!("/api/v1/experiments/{}", encoded(&show.name));
        let results: ExperimentResults = Client::new(show.server)?.get(&path).await?;
        if json { print(&json!(results)) } else { print(&report(&results)) }
    }
}

/// A rate with its interval.
fn rate(rate: Option<Estimate>) -> String {
    rate.map_or_else(
        || "–".to_owned(),
        |rate| format!("{:.4} ({:.4} to {:.4})", rate.value, rate.low, rate.high),
    )
}

fn line(results: &SlotResults) -> String {
    let SlotResults { impressions, click_rate, purchase_rate, reward, .. } = results;
    format!(
        "{impressions:>9} shown, clicked {}, bought {}, reward {}",
        rate(*click_rate),
        rate(*purchase_rate),
        rate(*reward)
    )
}

fn of_variant(of: &VariantResults) -> Vec<String> {
    let name = of.variant.as_ref().map_or("(both agreed)", |variant| variant.as_str());
    let mut lines = vec![format!("{name:<24} {}: {}", counted(of.lists, "list", "lists"), line(&of.results))];
    if let Some(wins) = of.wins {
        lines.push(format!("  won {}: {}", counted(wins, "list", "lists"), rate(of.win_rate)));
    }
    lines.extend(of.slots.iter().map(|slot| format!("  slot {:<4} {}", slot.slot, line(&slot.results))));
    lines
}

/// The results, one line for each variant and slot.
fn report(results: &ExperimentResults) -> String {
    let state = if results.is_running { "running" } else { "not in the settings any more" };
    let mut lines = vec![format!("{}: {state}; rates with their intervals of 95 %", results.name)];
    lines.extend(results.variants.iter().flat_map(of_variant));
    if results.variants.is_empty() {
        lines.push("no list was served for it yet".to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_has_rates_of_variants_and_slots() {
        let slot = |shown: u32, clicked: u32| {
            let rate = json!({"value": f64::from(clicked) / f64::from(shown), "low": 0.1, "high": 0.5});
            json!({"impressions": shown, "clicks": clicked, "purchases": 0, "click_rate": rate, "purchase_rate": null,
                "reward": null, "slot": 0})
        };
        let mut variant = slot(20, 5);
        let facts = json!({"variant": "texts", "lists": 1, "wins": 3, "win_rate": {"value": 0.75, "low": 0.4, "high": 0.9},
            "slots": [slot(10, 4)]});
        variant.as_object_mut().unwrap().extend(facts.as_object().unwrap().clone());
        let results = json!({"name": "blend", "is_running": true, "variants": [variant]});
        insta::assert_snapshot!(report(&serde_json::from_value(results).unwrap()), @r"
        blend: running; rates with their intervals of 95 %
        texts                    1 list:        20 shown, clicked 0.2500 (0.1000 to 0.5000), bought –, reward –
          won 3 lists: 0.7500 (0.4000 to 0.9000)
          slot 0           10 shown, clicked 0.4000 (0.1000 to 0.5000), bought –, reward –
        ");
    }
}
