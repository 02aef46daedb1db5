//! Which problems errors are, and what they tell.

use super::*;
use crate::domain::Violation;

#[test]
fn wrong_secrets_and_unknown_keys_are_told_alike() {
    let told = |error: AuthError| {
        let error = ApiError::from(error);
        (error.problem(), error.to_string())
    };
    let unknown = told(AuthError::Unknown);
    for other in [AuthError::Malformed, AuthError::WrongSecret, AuthError::Expired] {
        assert_eq!(told(other), unknown);
    }
}

#[test]
fn journal_refusals_are_503_with_a_time_to_retry() {
    for error in [
        AppendError::Full,
        AppendError::NoSegment,
        AppendError::Busy,
        AppendError::Poisoned,
        AppendError::Closed,
    ] {
        let error = ApiError::from(AcceptError::Journal(error));
        assert_eq!(error.problem().status, 503);
        assert!(error.retry_after().is_some(), "{error:?}");
    }
}

#[test]
fn internal_causes_are_not_shown() {
    let corrupt = ApiError::Store(StoreError::Corrupt("the disk is on fire".to_owned()));
    for error in [ApiError::internal("the disk is on fire"), corrupt] {
        assert_eq!((error.problem().code, error.fault()), ("internal", Fault::Internal));
        assert!(!error.to_string().contains("fire"));
    }
}

#[test]
fn single_violation_is_the_detail() {
    let one = ApiError::invalid(Violation::new("url", "scheme", "must be https"));
    assert_eq!(one.to_string(), "url must be https");
    let whole = ApiError::invalid(Violation::new("", "type", "the body must be a JSON object"));
    assert_eq!(whole.to_string(), "the body must be a JSON object");
    let two = ApiError::Invalid(vec![Violation::new("a", "b", "c"); 2]);
    assert_eq!(two.to_string(), "2 fields are invalid, see errors");
}
