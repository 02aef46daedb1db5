//! Everybody who asks, and what each must be told.

use std::time::Duration;

use hookgate::domain::{ApiKeyId, Role};
use hookgate::http::{Access, Route};

use super::rows::Variant;
use super::victim::Victim;
use crate::support::forged_key;
use crate::support::server::{Answer, START, Server};

/// Somebody, and the key they present.
pub(super) struct Caller {
    pub(super) name: &'static str,
    pub(super) key: Option<String>,
    standing: Standing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// A good key of another organisation.
    Stranger,
    /// A good operator's key.
    Operator,
    /// No good key.
    Nobody,
    /// Acme itself, or an operator where one is asked for.
    Owner,
}

/// Everybody.
pub(super) async fn callers(server: &Server, acme: &Victim) -> Vec<Caller> {
    let stranger = server.tenant("stranger").await;
    let acme_role = Role::Tenant(acme.tenant.org_id);
    let now = server.clock.now();
    let (revoked_id, revoked) = server.key(acme_role).await;
    // Used before it was revoked, so that the caches know it.
    server.get("/api/org", &revoked).await.expect(200);
    let operator = server.operator().await;
    let path = format!("/api/admin/keys/{revoked_id}");
    server.delete(&path, &operator).await.expect(204);
    let (expired_id, expired) = server.key(acme_role).await;
    let end = now.plus(Duration::from_millis(1));
    server.store.expire_key_across_orgs(expired_id, end, now).await.unwrap();
    server.get("/api/org", &expired).await.expect(200);
    server.clock.advance(Duration::from_secs(1));
    let caller = |name, key, standing| Caller { name, key, standing };
    vec![
        caller("another organisation", Some(stranger.key), Standing::Stranger),
        caller("an operator", Some(operator), Standing::Operator),
        caller("a revoked key", Some(revoked), Standing::Nobody),
        caller("an expired key", Some(expired), Standing::Nobody),
        caller("no key", None, Standing::Nobody),
        caller("a malformed key", Some("hg_nonsense".to_owned()), Standing::Nobody),
        caller("an unknown key", Some(forged_key(ApiKeyId::mint(START), 1)), Standing::Nobody),
        caller("a wrong secret", Some(forged_key(acme.tenant.key_id, 1)), Standing::Nobody),
    ]
}

impl Caller {
    /// Whoever a route is for.
    pub(super) fn owner(key: &str) -> Self {
        Self { name: "the owner", key: Some(key.to_owned()), standing: Standing::Owner }
    }

    /// Whether the route is for them, so that there is nothing to refuse. A stranger may ask for
    /// what is its own, which is why the matrix asks it for what is not.
    pub(super) fn may(&self, access: Access) -> bool {
        self.standing == Standing::Operator && access == Access::Operator
    }

    /// That the answer is the refusal this caller must get.
    pub(super) fn assert_refused(
        &self,
        route: &Route,
        variant: &Variant,
        answer: &Answer,
        told: &str,
    ) {
        let status = answer.status.as_u16();
        match (self.standing, route.access) {
            (_, Access::Anyone) => assert!(matches!(status, 200 | 503), "{told}: {answer:?}"),
            (Standing::Nobody, _) => {
                answer.expect_problem(401, "unauthorized");
            }
            (Standing::Stranger, Access::Operator) => {
                answer.expect_problem(403, "operator_key_required");
            }
            (Standing::Operator, Access::Tenant) => {
                answer.expect_problem(403, "tenant_key_required");
            }
            // Nothing with such an id, or, before it is looked for, something wrong with the rest.
            (Standing::Stranger, Access::Tenant) if route.path.contains("{id}") => {
                let expected: &[u16] = if variant.plain { &[404] } else { &[404, 422] };
                assert!(expected.contains(&status), "{told}: {answer:?}");
            }
            // What is its own.
            (Standing::Stranger, Access::Tenant) => {
                assert!(matches!(status, 200 | 201 | 202 | 422), "{told}: {answer:?}");
            }
            (Standing::Operator, Access::Operator) | (Standing::Owner, _) => {
                panic!("{told}: not refused by anybody")
            }
        }
    }
}
