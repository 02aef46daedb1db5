//! Macros that declare the metrics of a subsystem and the values of a label.

/// Declares the metrics of a subsystem: a struct with a field per metric, whose name is the metric's
/// and whose doc is the help text. The struct's doc is the heading in `docs/metrics.md`. `@core` before a field keeps
/// the metric with `METRICS=core`.
///
/// ```ignore
/// metrics! {
///     /// Metrics of the journal.
///     pub struct JournalMetrics {
///         /// Size of the journal on disk, in bytes.
///         @core journal_bytes: Gauge,
///         /// Time to write and sync a group of appends.
///         journal_sync_seconds: Histogram = SLOW_SECONDS,
///     }
/// }
/// ```
macro_rules! metrics {
    (
        $(#[doc = $owner:literal])+
        $visibility:vis struct $name:ident {
            $($(#[doc = $help:literal])+ $(@$set:ident)? $field:ident: $metric:ty $(= $options:expr)?,)+
        }
    ) => {
        $(#[doc = $owner])+
        #[derive(Debug)]
        $visibility struct $name {
            $($(#[doc = $help])+ $visibility $field: $metric,)+
        }

        impl $name {
            /// Registers the metrics.
            ///
            /// # Errors
            /// When a name is invalid or taken.
            $visibility fn register(
                registry: &$crate::telemetry::Registry,
            ) -> Result<std::sync::Arc<Self>, prometheus::Error> {
                let owner = concat!($($owner),+);
                Ok(std::sync::Arc::new(Self {
                    $($field: registry.register::<$metric>(
                        $crate::telemetry::Declaration {
                            owner,
                            name: stringify!($field),
                            help: concat!($($help),+),
                            is_core: [$(stringify!($set))?].contains(&"core"),
                        },
                        ($($options)?),
                    )?,)+
                }))
            }
        }
    };
}

/// Declares an enum whose variants are the values of a label.
///
/// ```ignore
/// label! {
///     /// The result of a cache look-up.
///     pub enum CacheLookup by "result" {
///         /// The cache had the key.
///         Hit = "hit",
///     }
/// }
/// ```
macro_rules! label {
    (
        $(#[$doc:meta])+
        $visibility:vis enum $name:ident by $label:literal {
            $($(#[$variant_doc:meta])+ $variant:ident = $value:literal,)+
        }
    ) => {
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $visibility enum $name { $($(#[$variant_doc])+ $variant,)+ }

        impl $crate::telemetry::Label for $name {
            const NAME: &'static str = $label;

            fn values() -> Vec<&'static str> {
                vec![$($value),+]
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

pub(crate) use {label, metrics};
