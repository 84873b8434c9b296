//! The latencies among the metrics, for clients that do not read the Prometheus format.
//!
//! The exporter is their only store; its text is parsed here, so the two formats never disagree.

use std::collections::BTreeMap;

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

#[derive(Debug, Default)]
struct Collected {
    sum: f64,
    count: u64,
    /// Quantile → value, of a summary.
    quantiles: Vec<(f64, f64)>,
    /// Upper bound → the number of samples at or below it, of a histogram.
    buckets: Vec<(f64, f64)>,
}

/// Parses the summaries and histograms of an exposition, by name and labels.
pub(crate) fn distributions(text: &str) -> Vec<Distribution> {
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
    found
        .into_iter()
        .filter(|(_, collected)| !collected.quantiles.is_empty() || !collected.buckets.is_empty())
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

impl Collected {
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
    fn counters_and_gauges_are_ignored() {
        assert_eq!(distributions("events_total 5\nqueue_count 3\n# HELP x y\nnonsense\n"), []);
    }

    #[test]
    fn distribution_without_samples_has_no_values() {
        let found = distributions("s{quantile=\"0.5\"} 0\ns_sum 0\ns_count 0\n");
        assert_eq!((found[0].count, found[0].mean, found[0].p50), (0, None, None));
    }
}
