//! Prints the results of a run as text or JSON.

use serde_json::{Map, Value, json};

use super::appenders::{Level, Measured};
use super::stores::Name;
use super::{Reading, Turn};
use crate::percentile;
use matchbook::failure::{Failure, print};

/// The minimum, median and maximum over the rounds.
#[derive(Clone, Copy)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let [min, median, max] = [0.0, 0.5, 1.0].map(|share| percentile(&values, share));
        Self { min, median, max }
    }

    fn json(self) -> Value {
        json!({ "min": self.min, "median": self.median, "max": self.max })
    }
}

pub(super) fn turns(turns: &[Turn], levels: &[Level], stores: &[Name], json: bool) -> Result<(), Failure> {
    for level in levels {
        let turns: Vec<&Turn> = turns.iter().filter(|turn| turn.level == *level).collect();
        let bare = Spread::of(turns.iter().map(|turn| turn.bare_syncs_per_second).collect());
        let Level { in_flight, each } = *level;
        if !json {
            print(&format_args!("{in_flight} in flight, {each} each; bare syncs {:.0}/s", bare.median))?;
        }
        for store in stores {
            let of = |figure: &dyn Fn(&Turn, &Measured) -> f64| {
                Spread::of(turns.iter().filter_map(|turn| Some(figure(turn, turn.of(*store)?))).collect())
            };
            let against = |peer: Name, figure: &dyn Fn(&Measured, &Measured) -> f64| {
                stores.contains(&peer).then(|| {
                    of(&|turn, measured| turn.of(peer).map_or(f64::NAN, |peer| figure(measured, peer)))
                })
            };
            let rate = of(&|_, measured| measured.events_per_second);
            let times = |store: &Measured, peer: &Measured| peer.events_per_second / store.events_per_second;
            let ratios = store.compared_with().iter();
            let ratios: Vec<(Name, Spread)> =
                ratios.filter_map(|peer| Some((*peer, against(*peer, &times)?))).collect();
            let cpu = of(&|_, measured| measured.cpu_micros);
            let own = against(Name::Nothing, &|store, nothing| store.cpu_micros - nothing.cpu_micros);
            let of_log = (*store == Name::Log).then(|| of(&|_, measured| measured.log_cpu_micros));
            if json {
                let ratios = ratios.iter().map(|(peer, ratio)| (peer.to_string(), ratio.json()));
                print(&json!({
                    "bench": "log", "in_flight": in_flight, "events_each": each, "store": store.as_str(),
                    "events_per_second": rate.json(), "ratios": ratios.collect::<Map<_, _>>(),
                    "cpu_micros_per_event": cpu.json(), "cpu_micros_above_nothing": own.map(Spread::json),
                    "cpu_micros_of_log_threads": of_log.map(Spread::json),
                    "bare_syncs_per_second": bare.json(),
                }))?;
                continue;
            }
            let mut line = format!("  {store:<15}{:>9.0} events/s", rate.median);
            for (peer, ratio) in ratios {
                line += &format!(
                    "; {peer} has {:.1} [{:.1}..{:.1}] times the rate",
                    ratio.median, ratio.min, ratio.max
                );
            }
            line += &format!("; {:.2} us of CPU per event", cpu.median);
            if let Some(own) = own.filter(|_| *store != Name::Nothing) {
                line += &format!(", {:.2} above nothing", own.median);
            }
            if let Some(of_log) = of_log {
                line += &format!(", {:.2} in the log's threads", of_log.median);
            }
            print(&line)?;
        }
    }
    Ok(())
}

pub(super) fn reading(reading: &Reading, json: bool) -> Result<(), Failure> {
    if json {
        return print(&json!({
            "bench": "log", "events": reading.events, "open_ms": reading.open_milliseconds,
            "read_events_per_second": reading.read_events_per_second,
        }));
    }
    print(&format_args!(
        "{} events: opened in {:.0} ms, read at {:.0}/s",
        reading.events, reading.open_milliseconds, reading.read_events_per_second,
    ))
}
