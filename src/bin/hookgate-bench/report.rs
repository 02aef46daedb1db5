//! Measurements, and their reports as text and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use hookgate::cli::CliError;
use serde::{Deserialize, Serialize};

use crate::args::{RunArgs, Scenario};
use crate::cpu::CpuTime;
use crate::table::Table;

/// Longest latency that is recorded, five minutes; the histogram keeps three significant digits.
const LATENCY_MICROS_MAX: u64 = 300_000_000;
/// Kinds of errors that are counted separately.
const ERROR_KINDS_MAX: usize = 8;

/// Measurements of a run, or of one connection's part of it.
pub(crate) struct Measured {
    latencies: Histogram<u64>,
    errors: BTreeMap<String, u64>,
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

/// Results of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    requests: u64,
    errors: BTreeMap<String, u64>,
    seconds: f64,
    pub(crate) requests_per_second: f64,
    pub(crate) events_per_second: f64,
    pub(crate) p50_ms: f64,
    p95_ms: f64,
    pub(crate) p99_ms: f64,
    p999_ms: f64,
    /// Absent in files of earlier versions.
    pub(crate) max_ms: Option<f64>,
    /// From the `202` to the arrival of the webhook; `null` for other scenarios than end-to-end.
    pub(crate) accept_to_receiver: Option<Quantiles>,
    /// The CPU time per event of the server's process, in microseconds; `null` for the server of `--url`,
    /// and when no event was accepted.
    cpu_us_per_event: Option<f64>,
    /// The same of PostgreSQL's processes that serve the database; `null` with SQLite, and when PostgreSQL
    /// runs on another machine.
    postgres_cpu_us_per_event: Option<f64>,
    /// The same of PostgreSQL's processes that serve every database.
    postgres_shared_cpu_us_per_event: Option<f64>,
    /// The most resident memory of the server's process during the run; `null` for the server of `--url`.
    memory_bytes: Option<u64>,
}

/// Quantiles of a latency.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "units come last in a name")]
pub(crate) struct Quantiles {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

impl Run {
    /// Results of a run with `events` events per request.
    #[expect(clippy::cast_precision_loss, reason = "counts of a run stay far below 2^52")]
    pub(crate) fn new(measured: Measured, events: u32, cpu: Option<CpuTime>) -> Self {
        let requests = measured.count();
        // Without an expected answer, some scenarios have no time to divide by.
        let requests_per_second =
            if requests == 0 { 0.0 } else { requests as f64 / measured.seconds };
        let events = f64::from(events);
        let cpu = cpu.filter(|_| requests > 0).map(|cpu| cpu.per_event(requests as f64 * events));
        Self {
            requests,
            seconds: measured.seconds,
            requests_per_second,
            events_per_second: requests_per_second * events,
            p50_ms: measured.quantile_ms(0.5),
            p95_ms: measured.quantile_ms(0.95),
            p99_ms: measured.quantile_ms(0.99),
            p999_ms: measured.quantile_ms(0.999),
            max_ms: Some(measured.quantile_ms(1.0)),
            accept_to_receiver: None,
            cpu_us_per_event: cpu.map(|cpu| cpu.server),
            postgres_cpu_us_per_event: cpu.and_then(|cpu| cpu.postgres_database),
            postgres_shared_cpu_us_per_event: cpu.and_then(|cpu| cpu.postgres_shared),
            memory_bytes: None,
            errors: measured.errors,
        }
    }

    /// The results with the most memory of the server.
    pub(crate) fn with_memory(self, memory_bytes: Option<u64>) -> Self {
        Self { memory_bytes, ..self }
    }

    /// The results with the latency from accept to receiver.
    pub(crate) fn with_accept_to_receiver(self, latency: Option<&Measured>) -> Self {
        let quantiles = |latency: &Measured| Quantiles {
            p50_ms: latency.quantile_ms(0.5),
            p99_ms: latency.quantile_ms(0.99),
            max_ms: latency.quantile_ms(1.0),
        };
        Self { accept_to_receiver: latency.map(quantiles), ..self }
    }

    /// The most memory of the server, in MB.
    #[expect(clippy::cast_precision_loss, reason = "memory stays far below 2^52 bytes")]
    pub(crate) fn memory_mb(&self) -> Option<f64> {
        Some(self.memory_bytes? as f64 / 1e6)
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
    /// Whether the reported run got any expected answer.
    pub(crate) const fn has_successes(&self) -> bool {
        self.median.requests > 0
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} req/s  {:.0} events/s  p50 {:.2} ms  p95 {:.2}  p99 {:.2}  p99.9 {:.2}",
            self.requests_per_second,
            self.events_per_second,
            self.p50_ms,
            self.p95_ms,
            self.p99_ms,
            self.p999_ms
        )?;
        if let Some(Quantiles { p50_ms, p99_ms, max_ms }) = self.accept_to_receiver {
            write!(f, "  accept to receiver p50 {p50_ms:.2} ms  p99 {p99_ms:.2}  max {max_ms:.2}")?;
        }
        if let Some(cpu) = self.cpu_us_per_event {
            write!(f, "  cpu {cpu:.1} us/event")?;
        }
        if let (Some(database), Some(shared)) =
            (self.postgres_cpu_us_per_event, self.postgres_shared_cpu_us_per_event)
        {
            write!(f, ", PostgreSQL {database:.1} and its shared processes {shared:.1}")?;
        }
        if let Some(bytes) = self.memory_bytes {
            write!(f, "  memory {} MB", bytes / 1_000_000)?;
        }
        if self.errors.is_empty() {
            write!(f, "  no errors")
        } else {
            write!(f, "  errors {:?}", self.errors)
        }
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

    fn run(requests: u32, latency_ms: u64) -> Run {
        let mut measured = Measured::new().unwrap();
        for _ in 0..requests {
            measured.success(Duration::from_millis(latency_ms));
        }
        measured.seconds = 2.0;
        let cpu = CpuTime { server: 1.0, postgres_database: Some(2.0), postgres_shared: None };
        Run::new(measured, 10, Some(cpu))
    }

    #[test]
    fn run_has_rates_latencies_and_cpu_time() {
        let run = run(100, 5);
        assert!((run.requests_per_second - 50.0).abs() < 1e-9);
        assert!((run.events_per_second - 500.0).abs() < 1e-9);
        assert!((run.p99_ms - 5.0).abs() < 0.01);
        assert!((run.cpu_us_per_event.unwrap() - 1000.0).abs() < 1e-9);
        assert!((run.postgres_cpu_us_per_event.unwrap() - 2000.0).abs() < 1e-9);
    }

    #[test]
    fn median_run_has_the_median_rate() {
        let runs = [run(300, 1), run(100, 2), run(200, 3)];
        assert_eq!(median_run(&runs).requests, 200);
    }

    #[test]
    fn run_without_an_expected_answer_has_finite_figures() {
        let mut measured = Measured::new().unwrap();
        measured.error("401");
        let cpu = CpuTime { server: 1.0, postgres_database: None, postgres_shared: None };
        let run = Run::new(measured, 1, Some(cpu));
        assert!(run.requests_per_second == 0.0 && run.cpu_us_per_event.is_none());
    }

    #[test]
    fn spread_shows_median_minimum_and_maximum() {
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]).to_string(), "2.00 (1.00 to 3.00)");
    }
}
