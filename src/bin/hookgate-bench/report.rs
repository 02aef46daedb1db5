//! Measurements, and their reports as text and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use hookgate::cli::CliError;
use serde::{Deserialize, Serialize};

use crate::args::{RunArgs, Scenario};
use crate::run::Run;
use crate::table::Table;

/// Longest latency that is recorded, five minutes; the histogram keeps three significant digits.
const LATENCY_MICROS_MAX: u64 = 300_000_000;
/// Kinds of errors that are counted separately.
const ERROR_KINDS_MAX: usize = 8;

/// Measurements of a run, or of one connection's part of it.
pub(crate) struct Measured {
    latencies: Histogram<u64>,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) seconds: f64,
}

impl Measured {
    /// Nothing measured.
    pub(crate) fn new() -> Result<Self, CliError> {
        let latencies = Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3)?;
        Ok(Self { latencies, errors: BTreeMap::new(), seconds: 0.0 })
    }

    /// Counts an expected answer.
    pub(crate) fn success(&mut self, latency: Duration) {
        self.latencies.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// Counts an unexpected answer, or a request without one.
    pub(crate) fn error(&mut self, what: &str) {
        if self.errors.len() < ERROR_KINDS_MAX || self.errors.contains_key(what) {
            *self.errors.entry(what.to_owned()).or_default() += 1;
        } else {
            *self.errors.entry("others".to_owned()).or_default() += 1;
        }
    }

    /// Expected answers.
    pub(crate) fn count(&self) -> u64 {
        self.latencies.len()
    }

    /// How often each kind of unexpected answer came.
    pub(crate) const fn errors(&self) -> &BTreeMap<String, u64> {
        &self.errors
    }

    /// A quantile of the latencies, in milliseconds.
    #[expect(clippy::cast_precision_loss, reason = "latencies stay far below 2^52")]
    pub(crate) fn quantile_ms(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1e3
    }

    /// Adds the measurements of another connection.
    pub(crate) fn add(&mut self, other: Self) -> Result<(), CliError> {
        self.latencies.add(other.latencies)?;
        for (what, count) in other.errors {
            *self.errors.entry(what).or_default() += count;
        }
        Ok(())
    }
}

/// Results of all runs of a scenario.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) scenario: Scenario,
    connections: u32,
    /// Requests per second of the open loop; `null` for the closed loop.
    rate: Option<u32>,
    payload_bytes: u32,
    /// The run with the median rate.
    pub(crate) median: Run,
    runs: Vec<Run>,
    peer: Option<Peer>,
}

/// Results of the peer, whose runs alternated with the scenario's.
#[derive(Debug, Serialize, Deserialize)]
struct Peer {
    name: String,
    median: Run,
    runs: Vec<Run>,
    /// Events per second, ours divided by the peer's, per pair of runs.
    rate_ratio: Spread,
    /// CPU time per event, ours divided by the peer's, per pair of runs.
    cpu_ratio: Option<Spread>,
    /// p99 latency, ours divided by the peer's, per pair of runs; absent in files of earlier versions.
    p99_ratio: Option<Spread>,
}

/// Median, minimum and maximum of some figures.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    least: f64,
    most: f64,
}

/// The name of the runs without a neighbour, in place of a peer's.
pub(crate) const ALONE: &str = "alone";

impl Report {
    /// The report of a scenario without a peer.
    pub(crate) fn new(scenario: Scenario, args: &RunArgs, runs: Vec<Run>) -> Self {
        Self {
            scenario,
            connections: args.connections,
            rate: args.rate,
            payload_bytes: args.payload_bytes,
            median: median_run(&runs),
            runs,
            peer: None,
        }
    }

    /// The report of a scenario and its peer.
    pub(crate) fn beside(
        name: &str,
        scenario: Scenario,
        args: &RunArgs,
        ours: Vec<Run>,
        theirs: Vec<Run>,
    ) -> Self {
        let pairs = || ours.iter().zip(&theirs);
        let rate = pairs().map(|(a, b)| a.events_per_second / b.events_per_second).collect();
        let cpu: Option<Vec<f64>> =
            pairs().map(|(a, b)| Some(a.cpu_us_per_event? / b.cpu_us_per_event?)).collect();
        let peer = Peer {
            name: name.to_owned(),
            median: median_run(&theirs),
            rate_ratio: Spread::of(rate),
            cpu_ratio: cpu.map(Spread::of),
            p99_ratio: Some(Spread::of(pairs().map(|(a, b)| a.p99_ms / b.p99_ms).collect())),
            runs: theirs,
        };
        Self { peer: Some(peer), ..Self::new(scenario, args, ours) }
    }
}

/// The run whose rate is the median. There is at least one run.
fn median_run(runs: &[Run]) -> Run {
    let mut by_rate: Vec<&Run> = runs.iter().collect();
    by_rate.sort_by(|a, b| a.requests_per_second.total_cmp(&b.requests_per_second));
    by_rate[by_rate.len() / 2].clone()
}

impl Spread {
    /// Of at least one figure.
    pub(crate) fn of(mut figures: Vec<f64>) -> Self {
        figures.sort_by(f64::total_cmp);
        Self {
            median: figures[figures.len() / 2],
            least: figures[0],
            most: figures[figures.len() - 1],
        }
    }
}

impl Report {
    /// The name of the peer, and the events per second divided by its.
    pub(crate) fn rate_ratio(&self) -> Option<(&str, &Spread)> {
        self.peer.as_ref().map(|peer| (peer.name.as_str(), &peer.rate_ratio))
    }

    /// How often each kind of unexpected answer came in the first run that has some.
    pub(crate) fn wrong_answers(&self) -> Option<&BTreeMap<String, u64>> {
        self.runs.iter().map(Run::errors).find(|errors| !errors.is_empty())
    }

    /// Whether the reported run got any expected answer.
    pub(crate) const fn has_successes(&self) -> bool {
        self.median.requests > 0
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2} to {:.2})", self.median, self.least, self.most)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load = self.rate.map_or("closed loop".to_owned(), |rate| format!("{rate} req/s"));
        writeln!(
            f,
            "{}, {load}, {} connections, {} B, median of {}:",
            self.scenario,
            self.connections,
            self.payload_bytes,
            self.runs.len()
        )?;
        write!(f, "  {}", self.median)?;
        if let Some(peer) = self.peer.as_ref().filter(|peer| peer.name == ALONE) {
            write!(f, "\n  alone: {}\n{}", peer.median, Table::new(&self.runs, &peer.runs))?;
        } else if let Some(peer) = &self.peer {
            write!(f, "\n  {}: {}", peer.name, peer.median)?;
            write!(f, "\n  ours / {}: events/s {}", peer.name, peer.rate_ratio)?;
            if let Some(cpu) = &peer.cpu_ratio {
                write!(f, ", cpu {cpu}")?;
            }
            if let Some(p99) = &peer.p99_ratio {
                write!(f, ", p99 {p99}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_run_has_the_median_rate() {
        let runs = [300, 100, 200].map(|requests| {
            let mut measured = Measured::new().unwrap();
            (0..requests).for_each(|_| measured.success(Duration::from_millis(1)));
            measured.seconds = 2.0;
            Run::new(measured, 1, None)
        });
        assert_eq!(median_run(&runs).requests, 200);
    }

    #[test]
    fn spread_shows_median_minimum_and_maximum() {
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]).to_string(), "2.00 (1.00 to 3.00)");
    }
}
