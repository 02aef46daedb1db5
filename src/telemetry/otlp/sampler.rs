//! The sampler: which traces are recorded. Pure.

use crate::config::{OtlpConfig, SamplerName};
use crate::domain::TraceId;

/// The bits of a trace id that are random, by the recommendation of W3C Trace Context, level 2: the last 56. Those before
/// them tell the time in ids that this server mints, and are no measure.
const RANDOM_BITS: u32 = 56;

/// Decides which traces are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Whether the caller decides where there is one.
    follows_parent: bool,
    /// A trace is recorded if its random bits are at least this.
    threshold: u64,
}

impl Sampler {
    /// The sampler of the settings.
    pub fn new(config: &OtlpConfig) -> Self {
        let ratio = config.otel_traces_sampler_arg;
        let (follows_parent, ratio) = match config.otel_traces_sampler {
            SamplerName::AlwaysOn => (false, 1.0),
            SamplerName::AlwaysOff => (false, 0.0),
            SamplerName::Traceidratio => (false, ratio),
            SamplerName::ParentbasedAlwaysOn => (true, 1.0),
            SamplerName::ParentbasedAlwaysOff => (true, 0.0),
            SamplerName::ParentbasedTraceidratio => (true, ratio),
        };
        Self { follows_parent, threshold: threshold(ratio) }
    }

    /// Whether a trace is recorded whose caller has decided so, if there is one. Every server with one ratio decides
    /// alike.
    pub fn samples(self, trace_id: &TraceId, caller: Option<bool>) -> bool {
        match caller {
            Some(decision) if self.follows_parent => decision,
            _ => random_bits(trace_id) >= self.threshold,
        }
    }
}

/// The rejection threshold of a ratio.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "2^56 is exact in an f64, and the ratio is from 0 to 1"
)]
fn threshold(ratio: f64) -> u64 {
    ((1.0 - ratio) * (1_u64 << RANDOM_BITS) as f64) as u64
}

fn random_bits(trace_id: &TraceId) -> u64 {
    let low = u128::from_be_bytes(*trace_id.bytes()) & ((1 << RANDOM_BITS) - 1);
    u64::try_from(low).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use SamplerName::{
        AlwaysOff, AlwaysOn, ParentbasedAlwaysOff, ParentbasedAlwaysOn, ParentbasedTraceidratio,
        Traceidratio,
    };

    use super::*;
    use crate::config::{Config, defaults};
    use crate::domain::Timestamp;

    fn sampler(name: SamplerName, ratio: f64) -> Sampler {
        let Config { mut otlp, .. } = defaults();
        (otlp.otel_traces_sampler, otlp.otel_traces_sampler_arg) = (name, ratio);
        Sampler::new(&otlp)
    }

    #[test]
    fn caller_decides_where_the_sampler_follows_it() {
        let trace = TraceId::mint();
        for (name, ratio, expected) in [
            (AlwaysOn, 0.0, [true, true, true]),
            (AlwaysOff, 1.0, [false, false, false]),
            (Traceidratio, 1.0, [true, true, true]),
            (Traceidratio, 0.0, [false, false, false]),
            (ParentbasedAlwaysOn, 0.0, [true, false, true]),
            (ParentbasedAlwaysOff, 1.0, [true, false, false]),
            (ParentbasedTraceidratio, 1.0, [true, false, true]),
            (ParentbasedTraceidratio, 0.0, [true, false, false]),
        ] {
            let sampler = sampler(name, ratio);
            let decisions =
                [Some(true), Some(false), None].map(|caller| sampler.samples(&trace, caller));
            assert_eq!(decisions, expected, "{name:?} {ratio}");
        }
    }

    #[test]
    fn ratio_is_kept_for_the_ids_that_this_server_mints() {
        let sampler = sampler(Traceidratio, 0.25);
        for mint in
            [TraceId::mint, || TraceId::mint_at(Timestamp::from_micros(1_700_000_000_000_000))]
        {
            let recorded = (0..8_000).filter(|_| sampler.samples(&mint(), None)).count();
            // Five standard deviations from the mean of 2,000.
            assert!((1_806..=2_194).contains(&recorded), "{recorded}");
        }
    }
}
