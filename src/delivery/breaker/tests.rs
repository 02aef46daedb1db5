//! Tests of the circuit breaker: the rules one by one, and any attempts.

use proptest::prelude::*;

use super::AttemptKind::{Manual, Scheduled};
use super::*;

const NOW: Monotonic = Monotonic::ZERO;

#[test]
fn attempt_that_was_not_made_changes_nothing_and_gives_the_probe_back() {
    let mut breaker = Breaker::default();
    for _ in 0..FAILURES_MAX {
        breaker.end(false, AttemptSignal::NotMade, NOW);
        assert!(!breaker.is_open());
        breaker.end(false, FAILURE, NOW);
    }
    let (open, later) = (breaker, NOW.plus(PAUSE_FIRST));
    assert!(breaker.start(Scheduled, later));
    breaker.end(true, AttemptSignal::NotMade, later);
    assert_eq!(breaker, open);
}

const FAILURE: AttemptSignal = AttemptSignal::Failure { hold: None };

fn later(seconds: u64) -> Monotonic {
    NOW.plus(Duration::from_secs(seconds))
}

fn held(seconds: u64) -> AttemptSignal {
    AttemptSignal::Failure { hold: Some(Duration::from_secs(seconds)) }
}

fn opened() -> Breaker {
    let mut breaker = Breaker::default();
    for _ in 0..FAILURES_MAX {
        assert_eq!(breaker.permit(Scheduled, NOW), Permit::Allow);
        assert!(!breaker.start(Scheduled, NOW));
        breaker.end(false, FAILURE, NOW);
    }
    breaker
}

#[test]
fn no_response_429_and_5xx_are_failures_and_other_responses_are_successes() {
    for status in [None, Some(429), Some(500), Some(503), Some(599)] {
        assert_eq!(AttemptSignal::of(status, None), FAILURE, "{status:?}");
    }
    for status in [200, 204, 301, 400, 404, 410, 428] {
        assert_eq!(AttemptSignal::of(Some(status), None), AttemptSignal::Success, "{status}");
    }
}

#[test]
fn consecutive_failures_open_the_breaker_and_a_success_resets_the_count() {
    assert_eq!(opened().permit(Scheduled, NOW), Permit::DenyUntil(later(5)));
    let mut breaker = Breaker::default();
    for number in 0..100 {
        let works = number % 10 == 9;
        breaker.end(false, if works { AttemptSignal::Success } else { FAILURE }, NOW);
        assert!(!breaker.is_open());
    }
}

#[test]
fn successful_probe_after_the_pause_closes_the_breaker() {
    let mut breaker = opened();
    assert_eq!(breaker.permit(Scheduled, later(4)), Permit::DenyUntil(later(5)));
    assert_eq!(breaker.permit(Scheduled, later(5)), Permit::Probe);
    assert!(breaker.start(Scheduled, later(5)));
    assert_eq!(breaker.permit(Scheduled, later(6)), Permit::DenyWhileProbing);
    breaker.end(true, AttemptSignal::Success, later(7));
    assert_eq!(breaker, Breaker::default());
}

#[test]
fn failed_probes_double_the_pause_up_to_five_minutes() {
    let mut breaker = opened();
    let mut now = NOW;
    for pause in [5, 10, 20, 40, 80, 160, 300, 300] {
        let until = now.plus(Duration::from_secs(pause));
        assert_eq!(breaker.permit(Scheduled, now), Permit::DenyUntil(until));
        now = until;
        assert!(breaker.start(Scheduled, now));
        breaker.end(true, FAILURE, now);
    }
}

#[test]
fn attempts_in_flight_when_it_opened_neither_prolong_the_pause_nor_count_as_the_probe() {
    let mut breaker = opened();
    breaker.end(false, FAILURE, later(1));
    assert_eq!(breaker.permit(Scheduled, later(1)), Permit::DenyUntil(later(5)));
    assert!(breaker.start(Scheduled, later(5)));
    breaker.end(false, FAILURE, later(6));
    assert_eq!(breaker.permit(Scheduled, later(6)), Permit::DenyWhileProbing);
    breaker.end(false, AttemptSignal::Success, later(6));
    assert_eq!(breaker.permit(Scheduled, later(6)), Permit::DenyWhileProbing);
}

#[test]
fn success_of_an_attempt_that_began_before_a_hold_does_not_end_it() {
    let mut breaker = Breaker::default();
    for _ in 0..4 {
        assert!(!breaker.start(Scheduled, NOW));
    }
    breaker.end(false, held(3600), later(1));
    for _ in 0..2 {
        breaker.end(false, AttemptSignal::Success, later(2));
        assert_eq!(breaker.permit(Scheduled, later(2)), Permit::DenyUntil(later(3601)));
    }
    assert!(breaker.start(Manual, later(3)));
    breaker.end(false, AttemptSignal::Success, later(4));
    assert_eq!(breaker.permit(Manual, later(4)), Permit::DenyWhileProbing);
    breaker.end(true, AttemptSignal::Success, later(5));
    assert_eq!(breaker, Breaker::default(), "the attempt by hand is a probe");
}

#[test]
fn first_response_with_a_hold_opens_the_breaker_until_the_hold_ends() {
    let mut breaker = Breaker::default();
    breaker.end(false, held(3600), NOW);
    assert_eq!(breaker.permit(Scheduled, later(3599)), Permit::DenyUntil(later(3600)));
    assert_eq!(breaker.paused_until(later(3599)), Some(later(3600)));
    assert_eq!(breaker.permit(Scheduled, later(3600)), Permit::Probe);
    assert_eq!(breaker.paused_until(later(3600)), None);
    assert!(breaker.start(Scheduled, later(3600)));
    breaker.end(true, FAILURE, later(3600));
    assert_eq!(breaker.paused_until(later(3600)), Some(later(3605)), "the first pause");
}

#[test]
fn hold_prolongs_a_pause_and_never_shortens_it() {
    let mut breaker = opened();
    breaker.end(false, held(1), later(1));
    assert_eq!(breaker.paused_until(later(1)), Some(later(5)));
    breaker.end(false, held(60), later(2));
    assert_eq!(breaker.paused_until(later(2)), Some(later(62)));
    assert!(breaker.start(Scheduled, later(62)));
    breaker.end(true, held(1), later(62));
    assert_eq!(breaker.paused_until(later(62)), Some(later(72)), "the second pause");
}

#[test]
fn hold_of_zero_is_an_ordinary_failure() {
    let mut breaker = Breaker::default();
    breaker.end(false, held(0), NOW);
    assert_eq!(breaker, Breaker::Closed { failures: 1 });
}

#[test]
fn manual_attempt_probes_an_open_breaker_at_once_and_one_at_a_time() {
    let mut breaker = opened();
    assert_eq!(breaker.permit(Manual, NOW), Permit::Probe);
    assert!(breaker.start(Manual, NOW));
    for kind in [Manual, Scheduled] {
        assert_eq!(breaker.permit(kind, later(5)), Permit::DenyWhileProbing);
        assert!(!breaker.start(kind, later(5)));
    }
    breaker.end(true, AttemptSignal::Success, later(1));
    assert_eq!(breaker, Breaker::default());
    assert_eq!(breaker.permit(Manual, later(1)), Permit::Allow);
}

#[test]
fn failed_manual_probes_do_not_change_the_pause() {
    let mut breaker = opened();
    let before = breaker;
    for seconds in 0..5 {
        assert!(breaker.start(Manual, later(seconds)));
        breaker.end(true, FAILURE, later(seconds));
        assert_eq!(breaker, before);
    }
    assert!(breaker.start(Manual, later(1)));
    breaker.end(true, held(60), later(1));
    assert_eq!(breaker.paused_until(later(1)), Some(later(61)));
}

#[test]
fn reset_closes_the_breaker_and_forgets_failures() {
    for mut breaker in [opened(), Breaker::Closed { failures: 9 }] {
        breaker.reset();
        assert_eq!(breaker, Breaker::default());
    }
}

proptest! {
    /// A failing endpoint is always probed again within the longest of pause and hold, by one probe at a
    /// time.
    #[test]
    fn open_breaker_always_permits_a_probe_in_the_end(
        steps in prop::collection::vec(
            (0..400_u64, any::<bool>(), any::<bool>(), any::<bool>(), prop::option::of(0..1_000_u64)),
            0..200,
        ),
    ) {
        let (mut breaker, mut now, mut probing) = (Breaker::default(), NOW, false);
        let mut held_until = NOW;
        for (seconds, starts, manual, works, hold) in steps {
            now = now.plus(Duration::from_secs(seconds));
            let kind = if manual { Manual } else { Scheduled };
            let hold = hold.map(Duration::from_secs);
            let failure = AttemptSignal::Failure { hold };
            let signal = if works { AttemptSignal::Success } else { failure };
            match breaker.permit(kind, now) {
                Permit::Probe if starts => {
                    prop_assert!(!probing);
                    probing = breaker.start(kind, now);
                    prop_assert!(probing);
                    continue;
                }
                Permit::DenyUntil(until) => {
                    let latest = now.plus(PAUSE_MAX).max(held_until);
                    prop_assert!(until > now && until <= latest);
                    prop_assert_eq!(breaker.permit(kind, latest), Permit::Probe);
                    continue;
                }
                Permit::DenyWhileProbing => {
                    prop_assert!(probing);
                    // The probe, or an attempt that was in flight when the breaker opened.
                    breaker.end(starts, signal, now);
                    probing = !starts;
                    if starts && works {
                        held_until = NOW;
                    }
                }
                Permit::Allow | Permit::Probe => {
                    prop_assert!(kind == Manual || held_until <= now, "a hold holds");
                    breaker.end(false, signal, now);
                }
            }
            if !works {
                held_until = held_until.max(now.plus(hold.unwrap_or_default()));
            }
            // Paused exactly when a scheduled attempt must wait for the time.
            prop_assert_eq!(breaker.paused_until(now).is_some() && !probing,
                matches!(breaker.permit(Scheduled, now), Permit::DenyUntil(_)));
        }
    }
}
