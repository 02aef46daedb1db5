//! Results of one run.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cpu::CpuTime;
use crate::drain::Drain;
use crate::report::Measured;

/// Results of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) requests: u64,
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
    pub(crate) cpu_us_per_event: Option<f64>,
    /// The same of PostgreSQL's processes that serve the database; `null` with SQLite, and when PostgreSQL
    /// runs on another machine.
    postgres_cpu_us_per_event: Option<f64>,
    /// The same of PostgreSQL's processes that serve every database.
    postgres_shared_cpu_us_per_event: Option<f64>,
    /// The most resident memory of the server's process during the run; `null` for the server of `--url`.
    memory_bytes: Option<u64>,
    /// What was stored by the end of the run, and how long the rest took; `null` without `--drain`.
    drain: Option<Drain>,
    /// What the database grew by, in bytes per delivered event; `null` without `--disk`.
    disk_bytes_per_event: Option<f64>,
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
            drain: None,
            disk_bytes_per_event: None,
            errors: measured.errors,
        }
    }

    /// How often each kind of unexpected answer came.
    pub(crate) const fn errors(&self) -> &BTreeMap<String, u64> {
        &self.errors
    }

    /// The results with the most memory of the server.
    pub(crate) fn with_memory(self, memory_bytes: Option<u64>) -> Self {
        Self { memory_bytes, ..self }
    }

    /// The results with what was stored by the end of the run.
    pub(crate) fn with_drain(self, drain: Option<Drain>) -> Self {
        Self { drain, ..self }
    }

    /// The results with what the database grew by, in bytes.
    #[expect(clippy::cast_precision_loss, reason = "sizes and counts stay far below 2^52")]
    pub(crate) fn with_disk(self, grown_bytes: Option<i64>) -> Self {
        let per_event = |bytes: i64| bytes as f64 / self.requests as f64;
        let grown_bytes = grown_bytes.filter(|_| self.requests > 0);
        Self { disk_bytes_per_event: grown_bytes.map(per_event), ..self }
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
        if let Some(drain) = self.drain {
            write!(f, "  {drain}")?;
        }
        if let Some(bytes) = self.disk_bytes_per_event {
            write!(f, "  disk {bytes:.0} B/event")?;
        }
        if self.errors.is_empty() {
            write!(f, "  no errors")
        } else {
            write!(f, "  errors {:?}", self.errors)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
    fn run_without_an_expected_answer_has_finite_figures() {
        let mut measured = Measured::new().unwrap();
        measured.error("401");
        let cpu = CpuTime { server: 1.0, postgres_database: None, postgres_shared: None };
        let run = Run::new(measured, 1, Some(cpu));
        assert!(run.requests_per_second == 0.0 && run.cpu_us_per_event.is_none());
    }

    #[test]
    fn growth_is_divided_by_the_delivered_events() {
        let run = run(100, 5).with_disk(Some(54_000));
        assert!(run.to_string().contains("disk 540 B/event"), "{run}");
        let nothing = Run::new(Measured::new().unwrap(), 1, None).with_disk(Some(54_000));
        assert_eq!(nothing.disk_bytes_per_event, None);
    }
}
