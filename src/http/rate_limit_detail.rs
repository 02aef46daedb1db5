//! What the refusal of a rate limit tells: which limit, and what to do.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use super::problem::{self as problems, Problem};
use super::ratelimit_headers::whole_seconds;
use crate::limit::{Bucket, RateLimitState};

/// The problem of a limit that is exceeded for now.
pub(super) const fn problem(bucket: &Bucket) -> &'static Problem {
    match bucket {
        Bucket::Events(_) => &problems::RATE_LIMITED,
        Bucket::Bytes(_) => &problems::BYTE_RATE_LIMITED,
        Bucket::Deliveries(_) => &problems::DELIVERY_RATE_LIMITED,
        Bucket::Writes(_) | Bucket::AccountWrites(..) | Bucket::OperatorWrites(_) => {
            &problems::WRITE_RATE_LIMITED
        }
        Bucket::Reads(_) | Bucket::AccountReads(..) | Bucket::OperatorReads(_) => {
            &problems::READ_RATE_LIMITED
        }
        Bucket::KeyEvents(_) => &problems::KEY_RATE_LIMITED,
        Bucket::TypeEvents(..) => &problems::EVENT_TYPE_RATE_LIMITED,
    }
}

/// The problem of a batch that a limit never allows.
pub(super) const fn over_burst_problem(bucket: &Bucket) -> &'static Problem {
    match bucket {
        Bucket::Deliveries(_) => &problems::BATCH_OVER_DELIVERY_LIMIT,
        _ => &problems::BATCH_OVER_RATE_LIMIT,
    }
}

/// The detail of a limit that is exceeded for now.
pub(super) fn write(
    f: &mut fmt::Formatter<'_>,
    bucket: &Bucket,
    quota: RateLimitState,
    retry_after: Duration,
) -> fmt::Result {
    let (limit, wait) = (quota.limit, whole_seconds(retry_after));
    write!(f, "the limit of {limit} {} is reached; try again in {wait} s", counted(bucket))
}

/// The detail of a batch that a limit never allows.
pub(super) fn write_over_burst(
    f: &mut fmt::Formatter<'_>,
    bucket: &Bucket,
    quota: RateLimitState,
    cost: u32,
) -> fmt::Result {
    let most = quota.burst;
    match bucket {
        Bucket::Deliveries(_) => write!(
            f,
            "the batch would become {cost} deliveries; at most {most} can be planned at once; \
             send smaller batches"
        ),
        Bucket::KeyEvents(_) => write!(
            f,
            "the batch has {cost} events; at most {most} can be sent at once with this key; send \
             smaller batches"
        ),
        Bucket::TypeEvents(_, event_type) => write!(
            f,
            "the batch has {cost} events of the type {event_type}; at most {most} can be sent at \
             once; send smaller batches"
        ),
        Bucket::Events(_)
        | Bucket::Bytes(_)
        | Bucket::Writes(_)
        | Bucket::AccountWrites(..)
        | Bucket::OperatorWrites(_)
        | Bucket::Reads(_)
        | Bucket::AccountReads(..)
        | Bucket::OperatorReads(_) => write!(
            f,
            "the batch has {cost} events; at most {most} can be sent at once; send smaller batches"
        ),
    }
}

/// What a limit counts, after its number.
fn counted(bucket: &Bucket) -> Cow<'static, str> {
    Cow::Borrowed(match bucket {
        Bucket::Events(_) => "events per minute",
        Bucket::Bytes(_) => "bytes per minute",
        Bucket::Deliveries(_) => "deliveries per minute",
        Bucket::Writes(_) | Bucket::AccountWrites(..) | Bucket::OperatorWrites(_) => {
            "changes per minute"
        }
        Bucket::Reads(_) | Bucket::AccountReads(..) | Bucket::OperatorReads(_) => {
            "reads per minute"
        }
        Bucket::KeyEvents(_) => "events per minute for this key",
        Bucket::TypeEvents(_, event_type) => {
            return Cow::Owned(format!("events per minute of the type {event_type}"));
        }
    })
}
