//! No tenant reads, changes or learns of another: every route, asked by everybody who has no business
//! there, for everything that is somebody else's.
//!
//! The routes are those of the router's own table. A route without a row in [`rows`] fails, and so
//! does a row without a route. Each is asked by every one of the [`callers`], for every kind of id in
//! its path, in its query and in its body, once with ids that are acme's and once with ids of the same
//! form that nobody has here: the two answers must be the same, and show nothing of acme's.
//!
//! Nothing here asserts on time. Ids of others and ids of nobody take the same statements, with the
//! organisation in their `WHERE`; [`timing`] prints what that comes to.

mod callers;
mod rows;
mod timing;
mod victim;

use std::collections::BTreeMap;

use hookgate::http::{Access, Route, route_table};
use reqwest::StatusCode;
use serde_json::Value;

use crate::support::server::{self, Answer, Server};
use callers::{Caller, callers};
use rows::{Variant, variants};
use victim::{Ids, Victim};

/// The keys of [`callers`] are refused thousands of times from one address.
const FLAGS: &[&str] = &["--rate-limit-per-minute=10000000"];

#[tokio::test]
async fn routes_show_and_change_nothing_for_other_callers() {
    let server = Server::start_with(FLAGS).await;
    let acme = Victim::settle(&server, "acme").await;
    let elsewhere = Server::start_with(FLAGS).await;
    let nobody = Victim::settle(&elsewhere, "nobody").await;
    let callers = callers(&server, &acme).await;
    let before = acme.view(&server).await;

    let mut statuses = BTreeMap::<(&str, u16), usize>::new();
    for route in route_table() {
        for variant in variants(&route) {
            for caller in callers.iter().filter(|caller| !caller.may(route.access)) {
                let theirs = ask(&server, &route, &variant, caller, &acme.ids).await;
                let nobodys = ask(&server, &route, &variant, caller, &nobody.ids).await;
                let told = format!("{} as {}: {variant:?}", name_of(&route), caller.name);
                acme.assert_unseen(&theirs, &told);
                assert_told_alike(&theirs, &nobodys, &told);
                caller.assert_refused(&route, &variant, &theirs, &told);
                *statuses.entry((caller.name, theirs.status.as_u16())).or_default() += 1;
            }
        }
    }

    for (after, before) in acme.view(&server).await.iter().zip(&before) {
        assert_eq!(after, before, "something of acme's was changed");
    }
    show(&statuses);
}

#[test]
fn routes_and_rows_match() {
    let mut routes: Vec<String> = route_table().iter().map(name_of).collect();
    let mut rows: Vec<String> =
        rows::ROWS.iter().map(|row| format!("{} {}", row.method, row.path)).collect();
    routes.sort_unstable();
    rows.sort_unstable();
    assert_eq!(routes, rows);
}

/// That the bodies of the rows are not refused for their form, which would hide what a route does.
#[tokio::test]
async fn routes_accept_the_first_body_of_their_row_from_their_caller() {
    let server = Server::start_with(FLAGS).await;
    let operator = server.operator().await;
    for route in route_table() {
        // Anew, so that no route meets what another has left.
        let acme = Victim::settle(&server, "acme").await;
        let key = match route.access {
            Access::Operator(_) => &operator,
            Access::Tenant(_) | Access::Anyone => &acme.tenant.key,
        };
        let owner = Caller::owner(key);
        let mut variant = variants(&route).swap_remove(0);
        if route.path.contains("{id}") {
            variant.path = route.path.replace("{id}", rows::own_id(route.path));
        }
        let answer = ask(&server, &route, &variant, &owner, &acme.ids).await;
        // Nothing moves behind this server, so it is not ready.
        let right = answer.status.is_success() || route.path == "/health/ready";
        assert!(right, "{}: {answer:?}", name_of(&route));
    }
}

/// A probe of the matrix itself: it sees what it looks for.
#[tokio::test]
async fn owner_sees_every_mark_that_nobody_else_may() {
    let server = Server::start_with(FLAGS).await;
    let acme = Victim::settle(&server, "acme").await;
    let seen = acme.view(&server).await.concat();
    for mark in acme.marks() {
        assert!(seen.contains(&mark), "{mark} is in no answer to its owner:\n{seen}");
    }
}

async fn ask(
    server: &Server,
    route: &Route,
    variant: &Variant,
    caller: &Caller,
    ids: &Ids,
) -> Answer {
    let mut request = server.bare(route.method.clone(), &ids.fill(&variant.path));
    if let Some(key) = caller.key(route.access) {
        request = request.header("x-api-key", key);
    }
    if let Some(body) = &variant.body {
        request = server::json(request, ids.fill(body));
    }
    server::answer(request).await
}

/// That an answer about acme's ids cannot be told from one about nobody's.
fn assert_told_alike(theirs: &Answer, nobodys: &Answer, told: &str) {
    assert_eq!(theirs.status, nobodys.status, "{told}: {theirs:?} {nobodys:?}");
    // What was made anew, or counts the time, differs by itself, and so do the caller's own rows
    // behind two moments, which is what cursors are.
    let varies = matches!(theirs.status, StatusCode::CREATED | StatusCode::ACCEPTED);
    if varies || ["/health", "/metrics", "?cursor="].iter().any(|word| told.contains(word)) {
        return;
    }
    let body = |answer: &Answer| {
        let mut body: Value = serde_json::from_str(&answer.text).unwrap_or_default();
        if let Some(fields) = body.as_object_mut() {
            fields.remove("trace_id");
            if told.contains("/api/portal-links") {
                // A new link each time.
                fields.remove("url");
            }
        }
        victim::forget_echoes(&mut body);
        body
    };
    assert_eq!(body(theirs), body(nobodys), "{told}");
    let names = |answer: &Answer| {
        answer.headers.keys().map(ToString::to_string).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(names(theirs), names(nobodys), "{told}");
}

fn name_of(route: &Route) -> String {
    format!("{} {}", route.method, route.path)
}

#[expect(clippy::print_stdout, reason = "the size of the matrix, for whoever runs it")]
fn show(statuses: &BTreeMap<(&str, u16), usize>) {
    let asked: usize = statuses.values().sum();
    println!("{} routes, {asked} pairs of requests", route_table().len());
    for ((caller, status), count) in statuses {
        println!("  {caller}: {count} x {status}");
    }
}
