//! Everybody who asks, and what each must be told.

use std::time::Duration;

use hookgate::domain::{Actor, ApiKeyId, Role, Scope, Scopes};
use hookgate::http::{Access, Route};

use super::rows::Variant;
use super::victim::Victim;
use crate::support::forged_key;
use crate::support::server::{Answer, START, Server};

/// Somebody, and the key they present.
pub(super) struct Caller {
    pub(super) name: &'static str,
    keys: Keys,
    standing: Standing,
}

/// What they present.
enum Keys {
    None,
    One(String),
    /// To each route a key that has all scopes of its role but the one that is needed.
    Lacking(Vec<(Scope, String)>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// A good key of another organisation.
    Stranger,
    /// A good operator's key.
    Operator,
    /// A good key of acme, or an operator's, without the scope.
    Unscoped,
    /// A good key of an organisation that is suspended.
    Suspended,
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
    server.store.system().expire_key(expired_id, end, &Actor::CLI, now).await.unwrap();
    server.get("/api/org", &expired).await.expect(200);
    server.clock.advance(Duration::from_secs(1));
    let dormant = server.tenant("dormant").await;
    server.get("/api/org", &dormant.key).await.expect(200);
    let path = format!("/api/admin/orgs/{}/suspend", dormant.org_id);
    server.post(&path, &operator, "").await.expect(200);
    let mut lacking = Vec::new();
    for &scope in Scope::ALL {
        let role = if Scopes::OPERATOR_ALL.iter().any(|own| own == scope) {
            Role::Operator
        } else {
            acme_role
        };
        // Without those that include it, too.
        let allows = |other: &Scope| Scopes::of(*other).include(Scopes::of(scope));
        let others = role.scopes().with_included().iter().filter(|other| !allows(other));
        let scopes = others.fold(Scopes::NONE, Scopes::with);
        lacking.push((scope, server.key_for(role, scopes).await.1));
    }
    let caller = |name, key: Option<String>, standing| Caller {
        name,
        keys: key.map_or(Keys::None, Keys::One),
        standing,
    };
    vec![
        Caller {
            name: "a key without the scope",
            keys: Keys::Lacking(lacking),
            standing: Standing::Unscoped,
        },
        caller("a suspended organisation", Some(dormant.key), Standing::Suspended),
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
        Self { name: "the owner", keys: Keys::One(key.to_owned()), standing: Standing::Owner }
    }

    /// The key they present to a route.
    pub(super) fn key(&self, access: Access) -> Option<&str> {
        match (&self.keys, access) {
            (Keys::One(key), _) => Some(key),
            (Keys::Lacking(keys), Access::Tenant(Some(needed)) | Access::Operator(needed)) => {
                keys.iter().find(|(scope, _)| *scope == needed).map(|(_, key)| key.as_str())
            }
            (Keys::None | Keys::Lacking(_), _) => None,
        }
    }

    /// Whether the route is for them, so that there is nothing to refuse. A stranger may ask for
    /// what is its own, which is why the matrix asks it for what is not.
    pub(super) fn may(&self, access: Access) -> bool {
        match self.standing {
            Standing::Operator => matches!(access, Access::Operator(_)),
            Standing::Unscoped => access == Access::Tenant(None),
            _ => false,
        }
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
            (Standing::Unscoped, _) => {
                answer.expect_problem(403, "scope_required");
            }
            (Standing::Suspended, Access::Tenant(_)) => {
                answer.expect_problem(403, "organisation_suspended");
            }
            (Standing::Stranger | Standing::Suspended, Access::Operator(_)) => {
                answer.expect_problem(403, "operator_key_required");
            }
            (Standing::Operator, Access::Tenant(_)) => {
                answer.expect_problem(403, "tenant_key_required");
            }
            // What is erased need not exist, and is its own.
            (Standing::Stranger, Access::Tenant(Some(Scope::DataErase)))
                if route.method == reqwest::Method::DELETE =>
            {
                assert!(matches!(status, 202 | 404 | 422), "{told}: {answer:?}");
            }
            // Nothing with such an id, or, before it is looked for, something wrong with the rest.
            (Standing::Stranger, Access::Tenant(_)) if route.path.contains("{id}") => {
                let expected: &[u16] = if variant.plain { &[404] } else { &[404, 422] };
                assert!(expected.contains(&status), "{told}: {answer:?}");
            }
            // No inbox of its own has this id.
            (Standing::Stranger, Access::Tenant(_)) if variant.path.contains("inbox=") => {
                assert!(matches!(status, 404 | 422), "{told}: {answer:?}");
            }
            // What is its own.
            (Standing::Stranger, Access::Tenant(_)) => {
                assert!(matches!(status, 200 | 201 | 202 | 422), "{told}: {answer:?}");
            }
            (Standing::Operator, Access::Operator(_)) | (Standing::Owner, _) => {
                panic!("{told}: not refused by anybody")
            }
        }
    }
}
