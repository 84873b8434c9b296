//! Estimates the rewards of other rankings from the slots of served lists. Each line of its input is one log: an array of slots
//! such as `{"user": 3, "reward": 1, "propensity": 0.5, "probability": 1, "expected": 0.1, "expected_of_other": 0.2}`. For each it
//! prints the evaluation, with the estimates in any case. `tests/what_if.sh` compares them with those of `obp`.
#![expect(clippy::disallowed_macros, reason = "it prints its answers")]

use std::error::Error;

use domain::what_if::off_policy::{LoggedSlot, estimates, evaluate};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    for line in std::io::stdin().lines() {
        let slots: Vec<LoggedSlot> = serde_json::from_str(&line?)?;
        println!("{}", json!({"evaluation": evaluate(&slots), "estimates": estimates(&slots)}));
    }
    Ok(())
}
