//! Idempotency keys: claimed once, settled with an answer, given up, taken over, and forgotten after a day.

use std::time::Duration;

use hookgate::domain::{ApiKeyId, IdempotencyKey, OrgId, Timestamp};
use hookgate::store::{IdempotencyClaim, KeptAnswer, NamedRequest};

use super::fixtures::{add_org, at};
use super::{Subject, on_both};

on_both!(
    claimed_request_is_settled_once,
    claim_is_given_up_or_taken_over,
    names_are_of_one_key_and_are_forgotten_after_a_day,
    concurrent_claims_have_one_winner,
);

const MINUTE: Duration = Duration::from_mins(1);

struct Names {
    key: ApiKeyId,
    org: OrgId,
    name: IdempotencyKey,
}

impl Names {
    async fn new(subject: &Subject) -> Self {
        let (org, key) = (add_org(subject).await, ApiKeyId::mint(at(0)));
        Self { key, org, name: IdempotencyKey::parse("näme".as_bytes()).unwrap() }
    }

    fn request(&self, digest: &'static [u8; 32], at: Timestamp) -> NamedRequest<'_> {
        NamedRequest { key: self.key, org: Some(self.org), name: &self.name, digest, at }
    }
}

fn answer() -> KeptAnswer {
    KeptAnswer {
        status: 202,
        location: Some("/api/replays/7".to_owned()),
        object: Some("7".to_owned()),
        body: Some(b"{\"id\":\"7\"}".to_vec()),
    }
}

async fn claim(subject: &Subject, request: NamedRequest<'_>) -> IdempotencyClaim {
    subject.store.claim_idempotency_key(request, MINUTE).await.unwrap()
}

async fn claimed_request_is_settled_once(subject: &Subject) {
    let names = Names::new(subject).await;
    let request = names.request(&[1; 32], at(1));
    assert_eq!(claim(subject, request).await, IdempotencyClaim::New);
    let later = names.request(&[1; 32], at(2));
    assert_eq!(claim(subject, later).await, IdempotencyClaim::InProgress);
    subject.store.settle_idempotency_key(request, &answer()).await.unwrap();
    assert_eq!(claim(subject, later).await, IdempotencyClaim::Answered(answer()));
    let other = names.request(&[2; 32], at(3));
    assert_eq!(claim(subject, other).await, IdempotencyClaim::OtherRequest);
    // What is settled is not given up.
    subject.store.release_idempotency_key(request).await.unwrap();
    assert_eq!(claim(subject, later).await, IdempotencyClaim::Answered(answer()));
}

async fn claim_is_given_up_or_taken_over(subject: &Subject) {
    let names = Names::new(subject).await;
    let first = names.request(&[1; 32], at(1));
    assert_eq!(claim(subject, first).await, IdempotencyClaim::New);
    subject.store.release_idempotency_key(first).await.unwrap();
    let second = names.request(&[2; 32], at(2));
    assert_eq!(claim(subject, second).await, IdempotencyClaim::New);
    let third = names.request(&[2; 32], at(2).plus(2 * MINUTE));
    assert_eq!(claim(subject, third).await, IdempotencyClaim::New);
    // The one that was given up on comes too late.
    subject.store.settle_idempotency_key(second, &answer()).await.unwrap();
    assert_eq!(claim(subject, third).await, IdempotencyClaim::InProgress);
    subject.store.settle_idempotency_key(third, &answer()).await.unwrap();
    assert_eq!(claim(subject, third).await, IdempotencyClaim::Answered(answer()));
}

async fn names_are_of_one_key_and_are_forgotten_after_a_day(subject: &Subject) {
    let (names, others) = (Names::new(subject).await, Names::new(subject).await);
    let request = names.request(&[1; 32], at(1));
    assert_eq!(claim(subject, request).await, IdempotencyClaim::New);
    subject.store.settle_idempotency_key(request, &answer()).await.unwrap();
    assert_eq!(claim(subject, others.request(&[2; 32], at(1))).await, IdempotencyClaim::New);
    let count = "SELECT count(*) FROM idempotency_keys";
    let day = Duration::from_hours(24);
    subject.store.system().maintain(at(1).plus(day)).await.unwrap();
    assert_eq!(subject.count(count).await, 2);
    // One that maintenance has left is not used any more.
    let next_day = at(1).plus(day + Duration::from_secs(1));
    assert_eq!(claim(subject, names.request(&[3; 32], next_day)).await, IdempotencyClaim::New);
    subject.store.system().maintain(next_day).await.unwrap();
    assert_eq!(subject.count(count).await, 1);
}

async fn concurrent_claims_have_one_winner(subject: &Subject) {
    let names = Names::new(subject).await;
    let claims = (1..9).map(|second| claim(subject, names.request(&[1; 32], at(second))));
    let claims = futures_util::future::join_all(claims).await;
    let won = claims.iter().filter(|claim| **claim == IdempotencyClaim::New).count();
    assert_eq!(won, 1, "{claims:?}");
}
