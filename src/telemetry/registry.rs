//! The registry of metrics: what `/metrics` shows and `docs/metrics.md` lists.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use prometheus::{Encoder, TextEncoder};

use super::metric::{Kind, Metric};
use crate::config::MetricsSet;

/// The metrics of one process. Each subsystem registers its own, declared by
/// [`metrics!`](super::metrics), in this registry.
#[derive(Debug, Default)]
pub struct Registry {
    prometheus: prometheus::Registry,
    /// In the order of registration.
    families: Mutex<Vec<Family>>,
}

/// What a metric is declared with, whatever its type.
#[derive(Clone, Copy, Debug)]
pub struct Declaration {
    /// The subsystem's name for its metrics, as in "Metrics of the journal".
    pub owner: &'static str,
    /// The name, unit included.
    pub name: &'static str,
    /// The help text.
    pub help: &'static str,
    /// Whether `METRICS=core` has it.
    pub is_core: bool,
}

/// One metric that is registered.
#[derive(Clone, Debug)]
pub struct Family {
    /// The subsystem's name for its metrics, as in "Metrics of the journal".
    pub owner: &'static str,
    /// The name, unit included.
    pub name: &'static str,
    /// The help text.
    pub help: &'static str,
    /// Counter, gauge or histogram, with the buckets.
    pub kind: Kind,
    /// Whether `METRICS=core` has it.
    pub is_core: bool,
    /// The names of its labels.
    pub labels: Vec<&'static str>,
    /// The values of its only label; empty when they are not known in advance.
    pub label_values: Vec<&'static str>,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a metric and registers it.
    ///
    /// # Errors
    /// When the name is invalid or taken.
    pub fn register<M: Metric>(
        &self,
        declaration: Declaration,
        options: M::Options,
    ) -> Result<M, prometheus::Error> {
        let Declaration { owner, name, help, is_core } = declaration;
        let (owner, help) = (owner.trim(), help.trim());
        let family = Family {
            owner: owner.trim_end_matches('.'),
            name,
            help,
            kind: M::kind(options),
            is_core,
            labels: M::labels(options),
            label_values: M::label_values(),
        };
        let (metric, collector) = M::create(name, help, options)?;
        self.prometheus.register(collector)?;
        self.families.lock().unwrap_or_else(PoisonError::into_inner).push(family);
        Ok(metric)
    }

    /// Every registered metric, in the order of registration.
    pub fn families(&self) -> Vec<Family> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The values of the metrics of a set in Prometheus' text format.
    ///
    /// # Errors
    /// When a metric cannot be written as text.
    pub fn render(&self, set: MetricsSet) -> Result<Vec<u8>, prometheus::Error> {
        let mut gathered = self.prometheus.gather();
        match set {
            MetricsSet::All => {}
            MetricsSet::Off => gathered.clear(),
            MetricsSet::Core => {
                let core: HashSet<&str> =
                    self.families().iter().filter(|f| f.is_core).map(|f| f.name).collect();
                gathered.retain(|family| core.contains(family.name()));
            }
        }
        let mut text = Vec::with_capacity(64 * 1024);
        TextEncoder::new().encode(&gathered, &mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{
        Counter, CounterBy, CounterByText, Gauge, Histogram, SLOW_SECONDS, label, metrics,
    };

    label! {
        /// The result of a test.
        enum Verdict by "verdict" {
            /// It passed.
            Passed = "passed",
            /// It failed.
            Failed = "failed",
        }
    }

    metrics! {
        /// Metrics of the tests.
        struct TestMetrics {
            /// Tests run.
            @core tests_total: Counter,
            /// Tests by verdict, over
            /// two lines.
            verdicts_total: CounterBy<Verdict>,
            /// Tests waiting.
            tests_waiting: Gauge,
            /// Length of a test.
            test_seconds: Histogram = SLOW_SECONDS,
            /// Panics by message.
            panics_total: CounterByText = &["message"],
        }
    }

    #[test]
    fn declared_metrics_are_counted_and_rendered() {
        let registry = Registry::new();
        let metrics = TestMetrics::register(&registry).unwrap();
        metrics.tests_total.inc_by(3);
        metrics.tests_waiting.set(2);
        metrics.verdicts_total.of(Verdict::Passed).inc();
        metrics.verdicts_total.of(Verdict::Failed).inc();
        metrics.test_seconds.observe(0.2);
        metrics.panics_total.with_label_values(&["oops"]).inc();
        let text = String::from_utf8(registry.render(MetricsSet::All).unwrap()).unwrap();
        for line in [
            "# HELP verdicts_total Tests by verdict, over two lines.",
            "# TYPE tests_total counter",
            "tests_total 3",
            "tests_waiting 2",
            "verdicts_total{verdict=\"failed\"} 1",
            "verdicts_total{verdict=\"passed\"} 1",
            "test_seconds_bucket{le=\"0.25\"} 1",
            "panics_total{message=\"oops\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in {text}");
        }
    }

    #[test]
    fn families_have_what_was_declared() {
        let registry = Registry::new();
        TestMetrics::register(&registry).unwrap();
        let families = registry.families();
        let verdicts = &families[1];
        assert_eq!((verdicts.owner, verdicts.name), ("Metrics of the tests", "verdicts_total"));
        assert_eq!((&verdicts.labels[..], verdicts.kind), (&["verdict"][..], Kind::Counter));
        assert_eq!(verdicts.label_values, ["passed", "failed"]);
        assert_eq!(families[3].kind, Kind::Histogram(SLOW_SECONDS));
        assert_eq!(
            (&families[4].labels[..], families[4].label_values.len()),
            (&["message"][..], 0)
        );
    }

    #[test]
    fn core_has_the_metrics_that_are_marked() {
        let registry = Registry::new();
        TestMetrics::register(&registry).unwrap();
        let text = |set| String::from_utf8(registry.render(set).unwrap()).unwrap();
        let core = text(MetricsSet::Core);
        assert!(core.contains("tests_total 0") && !core.contains("tests_waiting"), "{core}");
        assert_eq!(text(MetricsSet::Off), "");
    }

    #[test]
    fn name_is_registered_once() {
        let registry = Registry::new();
        TestMetrics::register(&registry).unwrap();
        assert!(TestMetrics::register(&registry).is_err());
    }
}
