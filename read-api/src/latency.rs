//! The latencies among the metrics, for clients that do not read the Prometheus format.
//!
//! The exporter is their only store; its text is parsed here, so the two formats never disagree.

use std::collections::BTreeMap;

use web::serve::{DURATION, DURATION_MAX, DURATION_MIN};

/// One distribution, in the metric's own unit (seconds, if its name ends so).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Distribution {
    pub metric: String,
    pub labels: BTreeMap<String, String>,
    pub count: u64,
    pub mean: Option<f64>,
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
    pub max: Option<f64>,
}

/// A sample: `name{label="value"} 1.5`.
#[derive(Debug, PartialEq)]
struct Sample<'a> {
    name: &'a str,
    labels: BTreeMap<String, String>,
    value: f64,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Collected {
    sum: f64,
    count: u64,
    /// Quantile → value, of a summary.
    quantiles: Vec<(f64, f64)>,
    /// Upper bound → the number of samples at or below it, of a histogram.
    buckets: Vec<(f64, f64)>,
}

/// The durations of an operation: a method of a route.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct OperationDurations {
    pub(crate) method: String,
    pub(crate) route: String,
    /// The number of responses with a status from 500.
    pub(crate) errors: u64,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
    collected: Collected,
}

impl OperationDurations {
    pub(crate) fn count(&self) -> u64 {
        self.collected.count
    }

    pub(crate) fn mean(&self) -> Option<f64> {
        (self.count() > 0).then(|| self.collected.sum / self.count() as f64)
    }

    /// The duration at a quantile, which is interpolated within its bucket, and neither beyond the longest one nor below the
    /// shortest.
    pub(crate) fn at(&self, quantile: f64) -> Option<f64> {
        if self.count() == 0 {
            return None;
        }
        let within = self.collected.at(quantile).or(self.max)?;
        let within = self.max.map_or(within, |max| within.min(max));
        Some(self.min.map_or(within, |min| within.max(min)))
    }

    /// Adds the durations of another operation, or of another status.
    pub(crate) fn add(&mut self, other: &Self) {
        self.errors += other.errors;
        self.min = [self.min, other.min].into_iter().flatten().reduce(f64::min);
        self.max = [self.max, other.max].into_iter().flatten().reduce(f64::max);
        self.collected.add(&other.collected);
    }
}

/// The durations of requests in an exposition, by operation.
pub(crate) fn operations(text: &str) -> Vec<OperationDurations> {
    let bounds = |name: &str| {
        let samples = text.lines().filter(|line| line.starts_with(name)).filter_map(parse);
        samples.map(|sample| (sample.labels, sample.value)).collect::<BTreeMap<_, _>>()
    };
    let (shortest, longest) = (bounds(DURATION_MIN), bounds(DURATION_MAX));
    let mut found: BTreeMap<(String, String), OperationDurations> = BTreeMap::new();
    for ((metric, labels), collected) in collect(text) {
        if metric != DURATION {
            continue;
        }
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        let (method, route) = (label("method"), label("route"));
        let is_error = label("status").parse::<u16>().is_ok_and(|status| status >= 500);
        let of_status = OperationDurations {
            errors: if is_error { collected.count } else { 0 },
            min: shortest.get(&labels).copied(),
            max: longest.get(&labels).copied(),
            collected,
            ..OperationDurations::default()
        };
        let operation = found.entry((method.clone(), route.clone())).or_insert_with(|| OperationDurations {
            method,
            route,
            ..OperationDurations::default()
        });
        operation.add(&of_status);
    }
    found.into_values().collect()
}

/// Parses the summaries and histograms of an exposition, by name and labels.
pub(crate) fn distributions(text: &str) -> Vec<Distribution> {
    collect(text)
        .into_iter()
        .map(|((metric, labels), collected)| Distribution {
            metric,
            labels,
            count: collected.count,
            mean: (collected.count > 0).then(|| collected.sum / collected.count as f64),
            p50: collected.at(0.5),
            p95: collected.at(0.95),
            p99: collected.at(0.99),
            max: collected.at(1.0),
        })
        .collect()
}

fn collect(text: &str) -> BTreeMap<(String, BTreeMap<String, String>), Collected> {
    let mut found: BTreeMap<(String, BTreeMap<String, String>), Collected> = BTreeMap::new();
    for line in text.lines() {
        let Some(mut sample) = parse(line) else { continue };
        let quantile = sample.labels.remove("quantile").and_then(|text| text.parse().ok());
        let bound = sample.labels.remove("le").and_then(|text| text.parse().ok());
        let (metric, part) = match (sample.name.rsplit_once('_'), quantile) {
            (_, Some(_)) => (sample.name, "quantile"),
            (Some((metric, part @ ("sum" | "count" | "bucket"))), None) => (metric, part),
            _ => continue,
        };
        let collected = found.entry((metric.to_owned(), sample.labels)).or_default();
        match (part, quantile, bound) {
            ("quantile", Some(quantile), _) => collected.quantiles.push((quantile, sample.value)),
            ("bucket", _, Some(bound)) => collected.buckets.push((bound, sample.value)),
            ("sum", ..) => collected.sum = sample.value,
            // A counter whose name ends in `_count` has neither quantiles nor buckets, and is dropped below.
            ("count", ..) => collected.count = sample.value as u64,
            _ => {}
        }
    }
    found.retain(|_, collected| !collected.quantiles.is_empty() || !collected.buckets.is_empty());
    found
}

impl Collected {
    /// Adds the samples of a histogram with the same buckets.
    fn add(&mut self, other: &Self) {
        self.sum += other.sum;
        self.count += other.count;
        if self.buckets.is_empty() {
            self.buckets.clone_from(&other.buckets);
            return;
        }
        for ((_, count), (_, more)) in self.buckets.iter_mut().zip(&other.buckets) {
            *count += more;
        }
    }

    /// The value at a quantile: from a summary, or interpolated within a histogram's bucket. None beyond the last bound.
    fn at(&self, quantile: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let stated = self.quantiles.iter().find(|(stated, _)| (stated - quantile).abs() < 1e-9);
        if let Some((_, value)) = stated {
            return Some(*value).filter(|value| value.is_finite());
        }
        let rank = quantile * self.count as f64;
        let (mut from, mut below) = (0.0, 0.0);
        for (bound, cumulated) in &self.buckets {
            if *cumulated >= rank {
                let part = if *cumulated > below { (rank - below) / (cumulated - below) } else { 1.0 };
                return Some(from + (bound - from) * part).filter(|value| value.is_finite());
            }
            (from, below) = (*bound, *cumulated);
        }
        None
    }
}

fn parse(line: &str) -> Option<Sample<'_>> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, rest)) = series.split_once('{') else {
        return Some(Sample { name: series, labels: BTreeMap::new(), value });
    };
    Some(Sample { name, labels: labels(rest.strip_suffix('}')?)?, value })
}

/// `a="x",b="y"`, with `\"`, `\\` and `\n` inside the quotes.
fn labels(text: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.insert(name.trim_start_matches(',').to_owned(), value);
        rest = quoted.get(end + 1..)?;
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_quantiles_are_used_as_they_are() {
        let text = "# TYPE http_request_seconds summary\n\
            http_request_seconds{route=\"a\\\"b\",quantile=\"0.5\"} 0.002\n\
            http_request_seconds{route=\"a\\\"b\",quantile=\"0.99\"} 0.009\n\
            http_request_seconds{route=\"a\\\"b\",quantile=\"1\"} 0.01\n\
            http_request_seconds_sum{route=\"a\\\"b\"} 0.03\n\
            http_request_seconds_count{route=\"a\\\"b\"} 10\n";
        let found = distributions(text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].labels["route"], "a\"b");
        assert_eq!((found[0].count, found[0].mean), (10, Some(0.003)));
        assert_eq!((found[0].p50, found[0].p95, found[0].p99), (Some(0.002), None, Some(0.009)));
        assert_eq!(found[0].max, Some(0.01));
    }

    #[test]
    fn histogram_is_interpolated_within_its_buckets() {
        let text = "s_bucket{le=\"1\"} 50\ns_bucket{le=\"2\"} 100\ns_bucket{le=\"+Inf\"} 100\ns_sum 90\ns_count 100\n";
        let found = distributions(text);
        assert_eq!((found[0].p50, found[0].p95, found[0].max), (Some(1.0), Some(1.9), Some(2.0)));
    }

    #[test]
    fn durations_of_an_operation_are_those_of_all_statuses() {
        let series = |status: u16, buckets: [u32; 3], sum: f64, min: f64, max: f64| {
            let labels = format!("method=\"GET\",route=\"/jobs\",status=\"{status}\"");
            let [one, two, all] = buckets;
            format!(
                "{DURATION}_bucket{{{labels},le=\"1\"}} {one}\n{DURATION}_bucket{{{labels},le=\"2\"}} {two}\n\
                 {DURATION}_bucket{{{labels},le=\"+Inf\"}} {all}\n{DURATION}_sum{{{labels}}} {sum}\n\
                 {DURATION}_count{{{labels}}} {all}\n{DURATION_MIN}{{{labels}}} {min}\n{DURATION_MAX}{{{labels}}} {max}\n"
            )
        };
        let text = series(200, [90, 90, 90], 9.0, 0.02, 0.9) + &series(503, [0, 8, 10], 31.0, 1.5, 7.0);
        let found = operations(&text);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].method.as_str(), found[0].route.as_str()), ("GET", "/jobs"));
        assert_eq!((found[0].count(), found[0].errors, found[0].mean()), (100, 10, Some(0.4)));
        assert_eq!((found[0].min, found[0].max), (Some(0.02), Some(7.0)));
        assert_eq!((found[0].at(0.45), found[0].at(0.94)), (Some(0.5), Some(1.5)));
        assert_eq!(found[0].at(0.99), Some(7.0), "beyond the last bound");
        let mut all = OperationDurations::default();
        all.add(&found[0]);
        all.add(&found[0]);
        assert_eq!((all.count(), all.errors, all.at(0.45)), (200, 20, Some(0.5)));
    }

    #[test]
    fn counters_and_gauges_are_ignored() {
        assert_eq!(distributions("events_total 5\nqueue_count 3\n# HELP x y\nnonsense\n"), []);
    }

    #[test]
    fn distribution_without_samples_has_no_values() {
        let found = distributions("s{quantile=\"0.5\"} 0\ns_sum 0\ns_count 0\n");
        assert_eq!((found[0].count, found[0].mean, found[0].p50), (0, None, None));
    }
}
