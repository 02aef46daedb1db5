//! Sizes of requests that depend on each other: events, batches, journal records, bytes in flight.

use super::Config;
use crate::domain::PageRequest;

/// Bytes that the body of a single event may have beside its payload.
pub const ENVELOPE_BYTES_MAX: usize = 16 * 1024;

const MIB: usize = 1024 * 1024;
/// The budget of bodies, or of answers, in MiB, unless the largest one needs more.
const IN_FLIGHT_MIB: usize = 128;
/// How many of the largest bodies, or answers, fit into a budget that is not set.
const LARGEST_IN_FLIGHT: usize = 4;
/// Bytes of a journal record beside the payloads: the fields of a thousand events.
const RECORD_FIELDS_BYTES_MAX: usize = 128 * 1024;
/// Bytes of a segment that are no record: the headers of the segment and of one frame.
const SEGMENT_HEADERS_BYTES: usize = 8 * 1024;
/// Bytes of an answer beside its largest payload.
const ANSWER_FIELDS_BYTES_MAX: usize = MIB;

/// Settings that contradict each other.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// A request of the largest size does not fit into a segment of the journal.
    #[error(
        "{setting}={bytes} needs JOURNAL_SEGMENT_MIB={segment_mib} or more: a request is one record of the journal"
    )]
    Record {
        /// `MAX_EVENT_BYTES` or `MAX_BATCH_BYTES`.
        setting: &'static str,
        /// Its value.
        bytes: u32,
        /// The smallest segment that takes it.
        segment_mib: usize,
    },
    /// A budget is smaller than the largest body or answer.
    #[error("{setting} must be at least {mib}, for {largest}")]
    InFlight {
        /// `BODIES_IN_FLIGHT_MIB` or `ANSWERS_IN_FLIGHT_MIB`.
        setting: &'static str,
        /// The smallest budget.
        mib: usize,
        /// The settings that it must fit.
        largest: &'static str,
    },
}

impl Config {
    /// Checks that requests of the largest size can be accepted, journaled and shown.
    ///
    /// # Errors
    /// The first contradiction; its text names the settings.
    pub fn check_sizes(&self) -> Result<(), SizeError> {
        let ingest = &self.ingest;
        let records = [
            ("MAX_EVENT_BYTES", ingest.max_event_bytes, self.payload_bytes_max()),
            ("MAX_BATCH_BYTES", ingest.max_batch_bytes, ingest.max_batch_bytes as usize),
        ];
        for (setting, bytes, payloads) in records {
            let segment = payloads + RECORD_FIELDS_BYTES_MAX + SEGMENT_HEADERS_BYTES;
            let segment_mib = segment.div_ceil(MIB);
            if self.journal.journal_segment_mib < segment_mib as u64 {
                return Err(SizeError::Record { setting, bytes, segment_mib });
            }
        }
        let budgets = [
            (
                "BODIES_IN_FLIGHT_MIB",
                self.server.bodies_in_flight_mib,
                self.body_bytes_max(),
                "MAX_EVENT_BYTES and MAX_BATCH_BYTES",
            ),
            (
                "ANSWERS_IN_FLIGHT_MIB",
                self.server.answers_in_flight_mib,
                self.answer_bytes_max(),
                "MAX_EVENT_BYTES and a page",
            ),
        ];
        for (setting, value, largest_bytes, largest) in budgets {
            let mib = largest_bytes.div_ceil(MIB);
            if value.is_some_and(|value| (value as usize) < mib) {
                return Err(SizeError::InFlight { setting, mib, largest });
            }
        }
        Ok(())
    }

    /// Bytes of the largest request body.
    pub fn body_bytes_max(&self) -> usize {
        let event = self.ingest.max_event_bytes as usize + ENVELOPE_BYTES_MAX;
        event.max(self.ingest.max_batch_bytes as usize)
    }

    /// Bytes of request bodies in flight at most.
    pub fn bodies_in_flight_bytes(&self) -> usize {
        budget(self.server.bodies_in_flight_mib, self.body_bytes_max())
    }

    /// Bytes of answers in flight at most.
    pub fn answers_in_flight_bytes(&self) -> usize {
        budget(self.server.answers_in_flight_mib, self.answer_bytes_max())
    }

    /// Bytes of the largest payload: a raw body that is not JSON becomes one in base64.
    fn payload_bytes_max(&self) -> usize {
        (self.ingest.max_event_bytes as usize).div_ceil(3) * 4
    }

    /// Bytes of the largest answer, or of a page while it is read and written.
    fn answer_bytes_max(&self) -> usize {
        let page = 2 * PageRequest::PAYLOAD_BYTES_MAX;
        self.payload_bytes_max().max(page) + ANSWER_FIELDS_BYTES_MAX
    }
}

/// The bytes of a budget: its setting, or as many as fit several of the largest.
fn budget(mib: Option<u32>, largest: usize) -> usize {
    let unset = (IN_FLIGHT_MIB * MIB).max(LARGEST_IN_FLIGHT * largest);
    mib.map_or(unset, |mib| mib as usize * MIB)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::defaults;

    fn check(change: impl FnOnce(&mut Config)) -> Result<(), String> {
        let mut config: Config = defaults();
        change(&mut config);
        config.check_sizes().map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_fit_the_smallest_segment() {
        assert_eq!(check(|config| config.journal.journal_segment_mib = 8), Ok(()));
    }

    #[test]
    fn largest_events_need_larger_segments_and_the_error_names_the_settings() {
        let largest = |config: &mut Config| config.ingest.max_event_bytes = 64 * 1024 * 1024;
        let error = check(largest).unwrap_err();
        assert!(error.starts_with("MAX_EVENT_BYTES=67108864 needs JOURNAL_SEGMENT_MIB=86"));
        let fits = |config: &mut Config| {
            largest(config);
            config.journal.journal_segment_mib = 86;
        };
        assert_eq!(check(fits), Ok(()));
        let error = check(|config| config.ingest.max_batch_bytes = 64 * 1024 * 1024).unwrap_err();
        assert!(error.starts_with("MAX_BATCH_BYTES=67108864 needs JOURNAL_SEGMENT_MIB=65"));
    }

    #[test]
    fn budgets_fit_the_largest_body_and_answer() {
        let bodies = check(|config| config.server.bodies_in_flight_mib = Some(4));
        let expected =
            "BODIES_IN_FLIGHT_MIB must be at least 5, for MAX_EVENT_BYTES and MAX_BATCH_BYTES";
        assert_eq!(bodies, Err(expected.to_owned()));
        let answers = check(|config| config.server.answers_in_flight_mib = Some(1));
        let expected = "ANSWERS_IN_FLIGHT_MIB must be at least 9, for MAX_EVENT_BYTES and a page";
        assert_eq!(answers, Err(expected.to_owned()));
        let mut config: Config = defaults();
        assert_eq!(config.bodies_in_flight_bytes(), 128 * MIB);
        config.ingest.max_event_bytes = 64 * 1024 * 1024;
        assert_eq!(config.bodies_in_flight_bytes(), 4 * (64 * MIB + ENVELOPE_BYTES_MAX));
        config.server.answers_in_flight_mib = Some(100);
        assert_eq!(config.answers_in_flight_bytes(), 100 * MIB);
    }
}
