//! How interactions and co-visits count, in the settings.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::recommend::co_visits;
use domain::recommend::settings::Settings;
use domain::user::interactions::{Counted, Interactions};
use event_schemas::user::InteractionType;
use serde::Deserialize;

/// The settings that a table or JSON names; the others stay the built-in ones.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Given {
    interactions: BTreeMap<InteractionType, GivenInteraction>,
    co_visits: GivenCoVisits,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GivenInteraction {
    weight: Option<f64>,
    half_life: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GivenCoVisits {
    window: Option<u32>,
    half_life: Option<u32>,
    backward: Option<f64>,
    steps_max: Option<u32>,
    visited_max: Option<u32>,
    visited_half_life: Option<u32>,
}

/// The largest weight, on either side of 0.
const WEIGHT_MAX: f64 = 2.0;

/// The bounds of half-lives.
const HALF_LIFE_MIN: Duration = Duration::from_secs(1);
const HALF_LIFE_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The largest number of steps or products.
const NUMBER_MAX: u32 = 10_000;

/// Parses settings that are written as JSON; a table of the settings file becomes JSON.
pub(super) fn parse(text: &str) -> Result<Settings, String> {
    let given: Given = serde_json::from_str(text)
        .map_err(|error| format!("{error}; write them as docs/production.md shows"))?;
    let mut interactions = Interactions::default();
    for (kind, one) in given.interactions {
        interactions = interactions.with(kind, one.of(interactions.of(kind))?);
    }
    Ok(Settings { interactions, co_visits: given.co_visits.checked()? })
}

impl GivenInteraction {
    fn of(self, default: Counted) -> Result<Counted, String> {
        let weight = self.weight.unwrap_or(default.weight);
        if !(-WEIGHT_MAX..=WEIGHT_MAX).contains(&weight) {
            return Err(format!("the weight {weight} must be from -{WEIGHT_MAX} to {WEIGHT_MAX}"));
        }
        let half_life = self.half_life.as_deref().map(super::duration).transpose()?;
        let half_life = half_life.unwrap_or(default.half_life);
        // An event has whole seconds.
        if !(HALF_LIFE_MIN..=HALF_LIFE_MAX).contains(&half_life) || half_life.subsec_nanos() > 0 {
            return Err("a half_life must be of whole seconds, from 1s to 365days".to_owned());
        }
        Ok(Counted { weight, half_life })
    }
}

impl GivenCoVisits {
    fn checked(self) -> Result<co_visits::Settings, String> {
        let default = co_visits::Settings::default();
        let number = |name: &str, given: Option<u32>| match given {
            Some(number) if !(1..=NUMBER_MAX).contains(&number) => {
                Err(format!("{name} must be from 1 to {NUMBER_MAX}"))
            }
            given => Ok(given),
        };
        let count = |name, given, default: usize| {
            number(name, given).map(|given| given.map_or(default, |number| number as usize))
        };
        let backward = self.backward.unwrap_or(default.backward);
        if !(0.0..=1.0).contains(&backward) {
            return Err("backward must be from 0 to 1".to_owned());
        }
        let visited_half_life = number("visited_half_life", self.visited_half_life)?;
        Ok(co_visits::Settings {
            window: count("window", self.window, default.window)?,
            half_life: number("half_life", self.half_life)?.unwrap_or(default.half_life),
            backward,
            steps_max: count("steps_max", self.steps_max, default.steps_max)?,
            visited_max: count("visited_max", self.visited_max, default.visited_max)?,
            visited_half_life: visited_half_life.unwrap_or(default.visited_half_life),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::super::tests::from_file;
    use super::*;

    #[test]
    fn recommend_is_a_table_of_the_file_or_json() {
        let text = "[recommend.interactions.like]\nweight = 0.9\nhalf_life = \"45m\"\n\
             [recommend.interactions.view]\nweight = 0\n[recommend.co_visits]\nwindow = 9\nhalf_life = 3\n";
        let config = from_file(text, &[]).unwrap().recommend.unwrap();
        let json = r#"{"interactions": {"like": {"weight": 0.9, "half_life": "45m"}, "view": {"weight": 0}},
            "co_visits": {"window": 9, "half_life": 3}}"#;
        assert_eq!(Some(config), parse(&["--recommend", json]).unwrap().recommend);
        let like = Counted { weight: 0.9, half_life: Duration::from_secs(2700) };
        assert_eq!(config.interactions.of(InteractionType::Like), like);
        let view = Interactions::default().of(InteractionType::View);
        assert_eq!(config.interactions.of(InteractionType::View), Counted { weight: 0.0, ..view });
        let expected = co_visits::Settings { window: 9, half_life: 3, ..co_visits::Settings::default() };
        assert_eq!(config.co_visits, expected);
    }

    #[test]
    fn wrong_recommend_setting_is_refused_with_its_name() {
        for (text, named) in [
            (r#"{"interactions": {"look": {}}}"#, "look"),
            (r#"{"interactions": {"view": {"weight": 2.5}}}"#, "weight"),
            (r#"{"interactions": {"view": {"half_life": "0s"}}}"#, "half_life"),
            (r#"{"interactions": {"view": {"half_life": "soon"}}}"#, "write it as"),
            (r#"{"interactions": {"view": {"decay": "1m"}}}"#, "decay"),
            (r#"{"co_visits": {"window": 0}}"#, "window"),
            (r#"{"co_visits": {"backward": 1.5}}"#, "backward"),
            (r#"{"co_visit": {}}"#, "co_visit"),
        ] {
            let refused = parse(&["--recommend", text]).unwrap_err().to_string();
            assert!(refused.contains(named), "{text}: {refused}");
        }
    }
}
