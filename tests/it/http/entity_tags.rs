//! `ETag` and `If-Match`: nobody overwrites what they have not read.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::server::{self, Answer, Server};

async fn ask(
    server: &Server,
    method: Method,
    (path, key): (&str, &str),
    (header, tag): (&str, &str),
    body: &str,
) -> Answer {
    let request = server.request(method, path, key).header(header, tag);
    server::answer(server::json(request, body.to_owned())).await
}

/// Holds the resource at `path` to its tag. `change` gives patches that change it, a different one each time.
async fn tag_guards(server: &Server, path: &str, key: &str, change: impl Fn(usize) -> String) {
    let read = server.get(path, key).await;
    let (first, body) = (read.header("etag").to_owned(), read.expect(200));
    assert!(first.starts_with('"') && first.ends_with('"'), "{first}");

    let sent = async |tag: &str, body: String| {
        ask(server, Method::PATCH, (path, key), ("if-match", tag), &body).await
    };
    let changed = sent(&format!("\"other\", {first}"), change(0)).await;
    let second = changed.header("etag").to_owned();
    let changed = changed.expect(200);
    assert_ne!(second, first, "{path}");
    assert_eq!(server.get(path, key).await.header("etag"), second);

    for (stale, body) in [
        (first.as_str(), change(1)),
        (&format!("W/{second}"), change(1)),
        (&first, "{}".to_owned()),
    ] {
        sent(stale, body).await.expect_problem(412, "precondition_failed");
    }
    sent("second", change(1)).await.expect_faults(&[("if-match", "format")]);
    let is = server.get(path, key).await;
    assert_eq!(is.header("etag"), second);
    assert_eq!(is.expect(200)["name"], changed["name"]);
    // Nothing to change is no change.
    assert_eq!(sent(&second, "{}".to_owned()).await.header("etag"), second);
    assert_ne!(sent("*", change(2)).await.header("etag"), second);
    server.patch(path, key, change(3)).await.expect(200);
    assert_eq!(body["id"], changed["id"]);
}

/// A reader who has the resource gets it again: the tag does not tell whether its counters have moved.
async fn tag_hides_nothing(server: &Server, path: &str, key: &str) {
    let tag = server.get(path, key).await.header("etag").to_owned();
    for known in [tag.as_str(), "*"] {
        let known = ("if-none-match", known);
        let answer = ask(server, Method::GET, (path, key), known, "").await;
        assert_eq!(answer.header("etag"), tag);
        answer.expect(200);
    }
}

#[tokio::test]
async fn changes_of_endpoints_are_conditional() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let body = r#"{"url":"https://example.com/hooks"}"#;
    let created = server.post("/api/endpoints", &tenant.key, body).await;
    let tag = created.header("etag").to_owned();
    let path = created.header("location").to_owned();
    assert_eq!(server.get(&path, &tenant.key).await.header("etag"), tag);
    tag_guards(&server, &path, &tenant.key, |n| json!({"description": n.to_string()}).to_string())
        .await;
    tag_hides_nothing(&server, &path, &tenant.key).await;

    // What moves by itself leaves the tag as it is; a new secret does not.
    let tag = server.get(&path, &tenant.key).await.header("etag").to_owned();
    server.store_event(tenant.org_id, "a", "1").await;
    let read = server.get(&path, &tenant.key).await;
    assert_eq!((read.header("etag"), &read.expect(200)["pending_count"]), (&*tag, &json!(1)));
    let rotate = format!("{path}/secret/rotate");
    server.post(&rotate, &tenant.key, "{}").await.expect(200);
    let remove = async |tag: &str| {
        ask(&server, Method::DELETE, (&path, &tenant.key), ("if-match", tag), "").await
    };
    remove(&tag).await.expect_problem(412, "precondition_failed");
    let tag = server.get(&path, &tenant.key).await.header("etag").to_owned();
    assert_eq!(remove(&tag).await.status, 204);
    remove(&tag).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn changes_of_keys_are_conditional() {
    let server = Server::start().await;
    let (operator, tenant) = (server.operator().await, server.tenant("acme").await);
    for (list, by) in [("/api/keys", &tenant.key), ("/api/admin/keys", &operator)] {
        let created = server.post(list, by, r#"{"name":"new"}"#).await;
        let (tag, path) =
            (created.header("etag").to_owned(), created.header("location").to_owned());
        assert_eq!(server.get(&path, by).await.header("etag"), tag);
        tag_guards(&server, &path, by, |n| json!({"name": format!("n{n}")}).to_string()).await;
        tag_hides_nothing(&server, &path, by).await;
        let revoke = async |tag: &str| {
            ask(&server, Method::DELETE, (&path, by), ("if-match", tag), "").await
        };
        revoke(&tag).await.expect_problem(412, "precondition_failed");
        assert_eq!(server.get(&path, by).await.expect(200)["active"], true);
        let tag = server.get(&path, by).await.header("etag").to_owned();
        assert_eq!(revoke(&tag).await.status, 204);
        assert_ne!(server.get(&path, by).await.header("etag"), tag);
    }
}

#[tokio::test]
async fn changes_of_organisations_are_conditional() {
    let server = Server::start().await;
    let operator = server.operator().await;
    let created = server.post("/api/admin/orgs", &operator, r#"{"name":"acme"}"#).await;
    let (tag, path) = (created.header("etag").to_owned(), created.header("location").to_owned());
    assert_eq!(server.get(&path, &operator).await.header("etag"), tag);
    tag_guards(&server, &path, &operator, |n| json!({"name": format!("n{n}")}).to_string()).await;
    tag_hides_nothing(&server, &path, &operator).await;
    let before = server.get(&path, &operator).await.header("etag").to_owned();
    let suspended = server.post(&format!("{path}/suspend"), &operator, "").await;
    assert_ne!(suspended.header("etag"), before);
    let delete = async |tag: &str| {
        ask(&server, Method::DELETE, (&path, &operator), ("if-match", tag), "").await
    };
    delete(&before).await.expect_problem(412, "precondition_failed");
    delete(suspended.header("etag")).await.expect(202);
}

#[tokio::test]
async fn changes_of_the_own_organisation_are_conditional() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let rates = |n: usize| json!({"own_event_type_rates": {"a": n + 1}}).to_string();
    tag_guards(&server, "/api/org", &tenant.key, rates).await;
    let read = server.get("/api/org", &tenant.key).await;
    let tag = read.header("etag").to_owned();
    let mut edited: Value = read.expect(200);
    edited["own_event_type_rates"] = json!({"b": 9});
    let body = edited.to_string();
    let own = ("/api/org", tenant.key.as_str());
    let changed = ask(&server, Method::PATCH, own, ("if-match", &tag), &body).await.expect(200);
    assert_eq!(changed["own_event_type_rates"], json!({"b": 9}));
}
