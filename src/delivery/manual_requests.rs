//! Requests for an attempt by hand. An endpoint has one such attempt at a time: the next request waits for its end.
//!
//! A request that cannot be served now waits until an attempt to its endpoint ends, or until the next poll. It is bounded:
//! one that there is no room for is attempted when its delivery is due, like any other.

use std::collections::{HashSet, VecDeque};

use crate::domain::{DeliveryId, EndpointId, OrgId};

/// Maximum requests. An organisation may have as many as are left beside its own.
const REQUESTS_MAX: usize = 1_024;

/// A request to attempt a delivery now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ManualRequest {
    pub(super) org: OrgId,
    pub(super) endpoint: EndpointId,
    pub(super) delivery: DeliveryId,
}

/// The requests, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct ManualRequests {
    /// Those that are served next.
    ready: VecDeque<ManualRequest>,
    /// Those that were tried, and wait.
    waiting: VecDeque<ManualRequest>,
}

impl ManualRequests {
    /// Adds a request, unless there are too many, or it is here.
    pub(super) fn push(&mut self, request: ManualRequest) {
        let all = || self.ready.iter().chain(&self.waiting);
        let of_org = all().filter(|other| other.org == request.org).count();
        let left = REQUESTS_MAX.saturating_sub(self.ready.len() + self.waiting.len());
        if of_org < left && !all().any(|other| *other == request) {
            self.ready.push_back(request);
        }
    }

    /// Whether one is to be served.
    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes those that are served next, at most `max`.
    pub(super) fn take(&mut self, max: usize) -> Vec<ManualRequest> {
        let count = self.ready.len().min(max);
        self.ready.drain(..count).collect()
    }

    /// Puts a request back that was taken and not served: it waits, behind the others.
    pub(super) fn put_back(&mut self, request: ManualRequest) {
        self.waiting.push_back(request);
    }

    /// An attempt to an endpoint has ended: its next request is to be served.
    pub(super) fn resume(&mut self, endpoint: EndpointId) {
        let next = self.waiting.iter().position(|request| request.endpoint == endpoint);
        if let Some(request) = next.and_then(|next| self.waiting.remove(next)) {
            self.ready.push_back(request);
        }
    }

    /// The first request of every endpoint that waits is to be served.
    pub(super) fn resume_all(&mut self) {
        let mut endpoints = HashSet::new();
        let (ready, waiting): (VecDeque<_>, VecDeque<_>) =
            self.waiting.drain(..).partition(|request| endpoints.insert(request.endpoint));
        self.ready.extend(ready);
        self.waiting = waiting;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    fn request(org: OrgId, endpoint: EndpointId) -> ManualRequest {
        ManualRequest { org, endpoint, delivery: DeliveryId::mint(Timestamp::from_micros(1)) }
    }

    fn endpoint(number: i64) -> EndpointId {
        EndpointId::mint(Timestamp::from_micros(number * 1_000))
    }

    #[test]
    fn request_that_was_not_served_waits_for_the_end_of_an_attempt_or_the_next_poll() {
        let (mut requests, one, other) = (ManualRequests::default(), endpoint(1), endpoint(2));
        let [first, second, third] = [one, one, other].map(|id| request(OrgId::FIRST, id));
        for request in [first, second, third, first] {
            requests.push(request);
        }
        assert_eq!(requests.take(16), [first, second, third], "each once");
        requests.put_back(second);
        requests.put_back(third);
        assert!(!requests.is_ready());
        requests.push(second);
        assert!(!requests.is_ready(), "it is known");
        requests.resume(one);
        assert_eq!(requests.take(16), [second]);
        requests.put_back(second);
        requests.put_back(first);
        requests.resume_all();
        assert_eq!(requests.take(16), [third, second], "one of each endpoint");
        requests.resume(one);
        assert_eq!(requests.take(16), [first]);
    }

    #[test]
    fn many_requests_of_an_organisation_leave_room_for_others() {
        let mut requests = ManualRequests::default();
        let other = OrgId::mint(Timestamp::from_micros(1));
        for _ in 0..REQUESTS_MAX {
            requests.push(request(OrgId::FIRST, endpoint(1)));
        }
        assert_eq!(requests.ready.len(), REQUESTS_MAX / 2);
        let of_other = request(other, endpoint(2));
        requests.push(of_other);
        assert_eq!(requests.take(REQUESTS_MAX).last(), Some(&of_other));
    }
}
