//! The table of a scenario alone and beside a neighbour.

use std::fmt;

use crate::report::Spread;
use crate::run::{Quantiles, Run};

/// The rows of the table, and how to read each from a run.
const ROWS: [(&str, Read); 8] = [
    ("events/s", |run| Some(run.events_per_second)),
    ("latency p50, ms", |run| Some(run.p50_ms)),
    ("latency p99, ms", |run| Some(run.p99_ms)),
    ("latency max, ms", |run| run.max_ms),
    ("accept to receiver p50, ms", |run| Some(accept_to_receiver(run)?.p50_ms)),
    ("accept to receiver p99, ms", |run| Some(accept_to_receiver(run)?.p99_ms)),
    ("accept to receiver max, ms", |run| Some(accept_to_receiver(run)?.max_ms)),
    ("server's memory, MB", Run::memory_mb),
];

type Read = fn(&Run) -> Option<f64>;

/// Medians of the runs alone and beside, and the ratios of the pairs.
pub(crate) struct Table(Vec<Row>);

struct Row {
    name: &'static str,
    alone: f64,
    beside: f64,
    /// Beside divided by alone, per pair of runs.
    ratio: Spread,
}

impl Table {
    /// The table of runs beside a neighbour and the runs alone that each of them is paired with.
    pub(crate) fn new(beside: &[Run], alone: &[Run]) -> Self {
        Self(ROWS.iter().filter_map(|(name, read)| Row::new(name, *read, beside, alone)).collect())
    }
}

impl Row {
    /// A row; `None` for figures that the scenario does not have.
    fn new(name: &'static str, read: Read, beside: &[Run], alone: &[Run]) -> Option<Self> {
        let figures = |runs: &[Run]| runs.iter().map(read).collect::<Option<Vec<f64>>>();
        let (beside, alone) = (figures(beside)?, figures(alone)?);
        let ratio = beside.iter().zip(&alone).map(|(beside, alone)| beside / alone).collect();
        let median = |figures| Spread::of(figures).median;
        Some(Self { name, ratio: Spread::of(ratio), alone: median(alone), beside: median(beside) })
    }
}

fn accept_to_receiver(run: &Run) -> Option<Quantiles> {
    run.accept_to_receiver
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  | {:<26} | {:>9} | {:>9} | beside / alone |", "", "alone", "beside")?;
        write!(f, "\n  |{:-<28}|{:->11}|{:->11}|{:-<16}|", "", ":", ":", "")?;
        for Row { name, alone, beside, ratio } in &self.0 {
            write!(f, "\n  | {name:<26} | {alone:>9.2} | {beside:>9.2} | {ratio} |")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::report::Measured;

    use super::*;

    #[test]
    fn table_has_medians_and_ratios_of_what_the_scenario_measures() {
        let run = |latency_ms| {
            let mut measured = Measured::new().unwrap();
            measured.success(Duration::from_millis(latency_ms));
            measured.seconds = 1.0;
            Run::new(measured, 1, None)
        };
        let (beside, alone) = ([4, 6, 5].map(run), [1, 2, 1].map(run));
        let text = Table::new(&beside, &alone).to_string();
        let row = "  | latency p99, ms            |      1.00 |      5.00 | 4.00 (3.00 to 5.00) |";
        assert!(text.contains(row), "{text}");
        assert!(!text.contains("accept to receiver"), "{text}");
    }
}
