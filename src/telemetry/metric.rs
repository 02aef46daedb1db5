//! Declaring metrics beside the code that counts them.
//!
//! [`metrics!`] makes the name, the help text and the field of a metric one declaration, and
//! [`label!`] does the same for the values of a label. Label values are resolved when the metric is
//! registered, so that counting on the path of a request is an atomic add and no look-up.

use std::fmt;
use std::marker::PhantomData;

use prometheus::core::Collector;
use prometheus::{HistogramOpts, HistogramVec, Opts};

pub use prometheus::{
    Counter as FloatCounter, Histogram, IntCounter as Counter, IntCounterVec as CounterByText,
    IntGauge as Gauge, IntGaugeVec as GaugeByText,
};

/// Buckets in seconds, from a microsecond (a cached key, a limit check) to 2.5 s.
pub const FAST_SECONDS: Buckets =
    &[1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 5e-3, 2.5e-2, 0.1, 0.5, 2.5];
/// Buckets in seconds, from a tenth of a millisecond (a synced write) to the request timeout.
pub const SLOW_SECONDS: Buckets = &[
    1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];
/// Buckets in seconds, from a delivery at once to one after a day of retries.
pub const DELIVERY_SECONDS: Buckets = &[
    5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0,
    3_600.0, 21_600.0, 86_400.0,
];
/// Buckets of a count.
pub const COUNTS: Buckets = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// Upper bounds of a histogram's buckets.
pub type Buckets = &'static [f64];

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only increases.
    Counter,
    /// Increases and decreases.
    Gauge,
    /// Counts observations in buckets with these upper bounds.
    Histogram(Buckets),
}

impl fmt::Display for Kind {
    /// The word of Prometheus' text format.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        })
    }
}

/// A type that a metric can be declared with.
pub trait Metric: Sized {
    /// What a declaration adds to the name and the help text, after `=`.
    type Options: Copy;

    /// The type for Prometheus.
    fn kind(options: Self::Options) -> Kind;

    /// The names of the labels.
    fn labels(_: Self::Options) -> Vec<&'static str> {
        Vec::new()
    }

    /// The values of the only label; empty when they are not known in advance.
    fn label_values() -> Vec<&'static str> {
        Vec::new()
    }

    /// Creates the metric, and the collector to register.
    ///
    /// # Errors
    /// When the name is invalid.
    fn create(
        name: &str,
        help: &str,
        options: Self::Options,
    ) -> Result<(Self, Box<dyn Collector>), prometheus::Error>;
}

/// A set of label values that is known in advance.
pub trait Label: Copy {
    /// The name of the label.
    const NAME: &'static str;

    /// Every value, in the order of [`Self::index`].
    fn values() -> Vec<&'static str>;

    /// The position of this value.
    fn index(self) -> usize;
}

/// One metric per value of a label.
pub struct ByLabel<L, M> {
    children: Vec<M>,
    label: PhantomData<L>,
}

/// A counter per value of a label.
pub type CounterBy<L> = ByLabel<L, Counter>;
/// A gauge per value of a label.
pub type GaugeBy<L> = ByLabel<L, Gauge>;
/// A histogram per value of a label.
pub type HistogramBy<L> = ByLabel<L, Histogram>;

impl<L: Label, M> ByLabel<L, M> {
    fn new(child: impl Fn(&'static str) -> M) -> Self {
        Self { children: L::values().into_iter().map(child).collect(), label: PhantomData }
    }

    /// The metric of this value.
    pub fn of(&self, value: L) -> &M {
        &self.children[value.index()]
    }
}

impl<L: Label, M> fmt::Debug for ByLabel<L, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ByLabel({})", L::NAME)
    }
}

/// Metrics that are a single number, each of the kind of its own name.
macro_rules! single_numbers {
    ($($metric:ident: $kind:ident)+) => {
        $(impl Metric for $metric {
            type Options = ();

            fn kind((): ()) -> Kind {
                Kind::$kind
            }

            fn create(
                name: &str,
                help: &str,
                (): (),
            ) -> Result<(Self, Box<dyn Collector>), prometheus::Error> {
                let metric = Self::new(name, help)?;
                Ok((metric.clone(), Box::new(metric)))
            }
        })+
    };
}
single_numbers!(Counter: Counter FloatCounter: Counter Gauge: Gauge);

impl Metric for Histogram {
    type Options = Buckets;

    fn kind(buckets: Buckets) -> Kind {
        Kind::Histogram(buckets)
    }

    fn create(
        name: &str,
        help: &str,
        buckets: Buckets,
    ) -> Result<(Self, Box<dyn Collector>), prometheus::Error> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let histogram = Self::with_opts(options)?;
        Ok((histogram.clone(), Box::new(histogram)))
    }
}

/// Metrics with labels whose values are not known in advance: words of the program, never of a caller. The option is
/// the names of the labels. A series appears with its first value.
macro_rules! by_text {
    ($($metric:ident: $kind:ident)+) => {
        $(impl Metric for $metric {
            type Options = &'static [&'static str];

            fn kind(_: Self::Options) -> Kind {
                Kind::$kind
            }

            fn labels(labels: Self::Options) -> Vec<&'static str> {
                labels.to_vec()
            }

            fn create(
                name: &str,
                help: &str,
                labels: Self::Options,
            ) -> Result<(Self, Box<dyn Collector>), prometheus::Error> {
                let metrics = Self::new(Opts::new(name, help), labels)?;
                Ok((metrics.clone(), Box::new(metrics)))
            }
        })+
    };
}
by_text!(CounterByText: Counter GaugeByText: Gauge);

/// Numbers with a label whose values are known in advance.
macro_rules! by_label {
    ($($metric:ident of $family:ident: $kind:ident)+) => {
        $(impl<L: Label> Metric for $metric<L> {
            type Options = ();

            fn kind((): ()) -> Kind {
                Kind::$kind
            }

            fn labels((): ()) -> Vec<&'static str> {
                vec![L::NAME]
            }

            fn label_values() -> Vec<&'static str> {
                L::values()
            }

            fn create(
                name: &str,
                help: &str,
                (): (),
            ) -> Result<(Self, Box<dyn Collector>), prometheus::Error> {
                let family = $family::new(Opts::new(name, help), &[L::NAME])?;
                let children = Self::new(|value| family.with_label_values(&[value]));
                Ok((children, Box::new(family)))
            }
        })+
    };
}
by_label!(CounterBy of CounterByText: Counter GaugeBy of GaugeByText: Gauge);

impl<L: Label> Metric for HistogramBy<L> {
    type Options = Buckets;

    fn kind(buckets: Buckets) -> Kind {
        Kind::Histogram(buckets)
    }

    fn labels(_: Buckets) -> Vec<&'static str> {
        vec![L::NAME]
    }

    fn label_values() -> Vec<&'static str> {
        L::values()
    }

    fn create(
        name: &str,
        help: &str,
        buckets: Buckets,
    ) -> Result<(Self, Box<dyn Collector>), prometheus::Error> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let histograms = HistogramVec::new(options, &[L::NAME])?;
        let children = Self::new(|value| histograms.with_label_values(&[value]));
        Ok((children, Box::new(histograms)))
    }
}
