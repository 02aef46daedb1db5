//! Acme: an organisation with one of everything, all of it marked, so that a byte of it in a wrong
//! answer is found.

use std::time::Duration;

use hookgate::domain::{DeadReason, Decision, Event, EventId, Outcome, Timestamp, TraceId};
use serde_json::Value;

use crate::support::server::{Answer, Server, Tenant};

/// An organisation with one of everything.
pub(super) struct Victim {
    pub(super) tenant: Tenant,
    pub(super) ids: Ids,
    name: &'static str,
    trace_id: TraceId,
    /// Its endpoint's.
    secret: String,
}

/// What can be named in a request, by the word that stands for it in templates.
pub(super) struct Ids(Vec<(&'static str, String)>);

impl Victim {
    /// Makes it.
    pub(super) async fn settle(server: &Server, name: &'static str) -> Self {
        let tenant = server.tenant(&format!("{name}-name")).await;
        let (trace_id, secret) = (TraceId::mint(), String::new());
        let mut victim = Self { tenant, ids: Ids(Vec::new()), name, trace_id, secret };
        let key = &victim.tenant.key;
        let body = format!(
            r#"{{"url":"https://{name}-url.example/","event_types":["{name}.*"],
                "description":"{name}-description","headers":{{"x-{name}-field":"{name}-field"}}}}"#
        );
        let endpoint = server.post("/api/endpoints", key, body).await.expect(201);
        // The first read opens the default inbox.
        server.get("/api/inbox", key).await.expect(200);
        let first = victim.store_event(server).await;
        server.get("/api/inbox?visibility_seconds=3600", key).await.expect(200);
        let leased = server.claim().await;
        let leased = leased.iter().find(|leased| leased.event.id == first.id).unwrap();
        let outcome = Outcome {
            delivery_id: leased.id,
            org_id: victim.tenant.org_id,
            endpoint_id: leased.endpoint.id,
            endpoint_version: leased.endpoint.version,
            event_received_at: first.received_at,
            labels: None,
            token: leased.lease.token,
            attempt: None,
            decision: Decision::Dead(DeadReason::Gone),
            decided_at: server.clock.now(),
            disable_if_failing_since: Timestamp::from_micros(0),
        };
        server.store.system().record_outcomes(&[outcome]).await.unwrap();
        victim.store_event(server).await;
        let page = server.get("/api/events?limit=1", key).await.expect(200);
        let pending = server.get("/api/deliveries?status=pending", key).await.expect(200);
        let replay = server.post("/api/dead-letters/replay", key, "{}").await.expect(202);
        let gone = format!("/api/accounts/{name}-gone/data");
        let erasure = server.delete(&gone, key).await.expect(202);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        victim.secret = text(&endpoint["secret"]);
        victim.ids = Ids(vec![
            ("{event}", first.id.to_string()),
            ("{endpoint}", text(&endpoint["id"])),
            ("{delivery}", leased.id.to_string()),
            ("{pending}", text(&pending["data"][0]["id"])),
            ("{replay}", text(&replay["id"])),
            ("{erasure}", text(&erasure["id"])),
            ("{org}", victim.tenant.org_id.to_string()),
            ("{key}", victim.tenant.key_id.to_string()),
            ("{cursor}", text(&page["next_cursor"])),
            ("{dedup}", format!("{name}-dedup")),
            ("{account}", format!("{name}-account")),
            ("{user}", format!("{name}-user")),
            ("{type}", format!("{name}.type")),
            ("{trace}", victim.trace_id.to_string()),
        ]);
        victim
    }

    async fn store_event(&self, server: &Server) -> Event {
        server.clock.advance(Duration::from_secs(1));
        let (name, now) = (self.name, server.clock.now());
        let event = Event {
            id: EventId::mint(now),
            org_id: self.tenant.org_id,
            event_type: format!("{name}.type").parse().unwrap(),
            payload: format!(r#""{name}-payload""#).into(),
            dedup_id: None,
            account_id: Some(format!("{name}-account")),
            user_id: Some(format!("{name}-user")),
            occurred_at: None,
            received_at: now,
            trace_id: self.trace_id.clone(),
            accept_span: None,
        };
        server.store_as_it_is(&event).await;
        event
    }

    /// Everything of its own that it can see.
    pub(super) async fn view(&self, server: &Server) -> Vec<String> {
        let lists = [
            "/api/events",
            "/api/endpoints",
            "/api/deliveries",
            "/api/dead-letters",
            "/api/replays",
            "/api/erasures",
            "/api/keys",
            "/api/accounts",
            "/api/event-types",
        ];
        let ones = [
            "/api/org",
            "/api/events/{event}",
            "/api/endpoints/{endpoint}",
            "/api/endpoints/{endpoint}/secret",
            "/api/deliveries/{delivery}",
            "/api/dead-letters/{delivery}",
            "/api/replays/{replay}",
            "/api/erasures/{erasure}",
            "/api/keys/{key}",
            "/api/endpoints/{endpoint}/stats",
            "/api/accounts/{account}/summary",
            "/api/analytics/events?group_by=type",
        ];
        let mut view = Vec::new();
        for path in lists.into_iter().chain(ones) {
            let answer = server.get(&self.ids.fill(path), &self.tenant.key).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text);
            view.push(answer.text);
        }
        view
    }

    /// What is nobody else's to see, and in [`Self::view`].
    pub(super) fn marks(&self) -> Vec<String> {
        let name = self.name;
        let ids = [
            "{event}",
            "{endpoint}",
            "{delivery}",
            "{pending}",
            "{replay}",
            "{erasure}",
            "{org}",
            "{key}",
        ];
        let words = ["name", "url", "description", "field", "payload", "account", "user"];
        ids.iter()
            .map(|id| self.ids.fill(id))
            .chain(words.iter().map(|word| format!("{name}-{word}")))
            .chain([format!("{name}.type"), self.trace_id.to_string(), self.secret.clone()])
            .collect()
    }

    /// That nothing of it is in an answer, in whatever spelling.
    pub(super) fn assert_unseen(&self, answer: &Answer, told: &str) {
        let mut body: Value = serde_json::from_str(&answer.text).unwrap_or_default();
        forget_echoes(&mut body);
        let body = if body.is_null() { answer.text.clone() } else { body.to_string() };
        let text = format!("{:?}\n{body}", answer.headers);
        let simple = |mark: &String| mark.replace('-', "");
        for mark in self.marks() {
            assert!(!text.contains(&mark), "{told} shows {mark}: {text}");
            assert!(!text.contains(&simple(&mark)), "{told} shows {mark}: {text}");
        }
        for hidden in [&self.tenant.key, &self.tenant.key[36..]] {
            assert!(!text.contains(hidden), "{told} shows the key: {text}");
        }
    }
}

/// Takes out the caller's own words: what a replay repeats of the request that made it, and the ids of events that an
/// inbox does not know.
pub(super) fn forget_echoes(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("filter");
            if fields.get("status").is_some_and(|status| status == "unknown") {
                fields.remove("id");
            }
            fields.values_mut().for_each(forget_echoes);
        }
        Value::Array(values) => values.iter_mut().for_each(forget_echoes),
        _ => {}
    }
}

impl Ids {
    /// A template with the ids in their places.
    pub(super) fn fill(&self, template: &str) -> String {
        let put = |text: String, (word, id): &(&str, String)| text.replace(word, id);
        self.0.iter().fold(template.to_owned(), put)
    }
}
