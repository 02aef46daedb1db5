//! The form of an endpoint, and the fields of the API's body that it stands for.

use serde_json::{Map, Value, json};

use super::endpoints::PATH;
use crate::api::views::EndpointDetail;
use crate::api::{CallerReach, accounts};
use crate::domain::{EndpointKind, EventType, EventTypeFilters};
use crate::http::console::failure::ConsoleError;
use crate::http::console::posted::{FormData, number, text};
use crate::http::console::ui::{ConsoleForm, FieldKind, FormField};
use crate::http::console::visitor::Visitor;

/// Event types that are offered.
const TYPES_OFFERED: u32 = 60;

/// The values of the form.
#[derive(Debug, Default)]
pub(super) struct Values {
    pub(super) kind: String,
    url: String,
    description: String,
    /// Filters that are chosen or written.
    event_types: Vec<String>,
    signature: String,
    headers: String,
    /// The headers cannot be read, and stay unless others are written.
    keeps_headers: bool,
    format: String,
    /// The state of the endpoint that the form was made from.
    pub(super) revision: String,
    max_concurrency: String,
    rate_limit_per_second: String,
    retry_schedule: String,
    ordered: bool,
    visibility_seconds: String,
    max_receives: String,
}

impl Values {
    /// Those of a new endpoint.
    pub(super) fn of_kind(kind: String) -> Self {
        Self { kind, ..Self::default() }
    }

    /// Those that were sent.
    pub(super) fn posted(form: &FormData) -> Self {
        let written = form.text("other_types").split([',', '\n', ' ']).map(str::trim);
        let written = written.filter(|filter| !filter.is_empty());
        let own = |name| form.text(name).to_owned();
        Self {
            kind: own("kind"),
            url: own("url"),
            description: own("description"),
            event_types: form.all("event_types").chain(written).map(str::to_owned).collect(),
            signature: own("signature"),
            headers: own("headers"),
            keeps_headers: form.is_on("keeps_headers"),
            format: own("format"),
            revision: own("revision"),
            max_concurrency: own("max_concurrency"),
            rate_limit_per_second: own("rate_limit_per_second"),
            retry_schedule: own("retry_schedule"),
            ordered: form.is_on("ordered"),
            visibility_seconds: own("visibility_seconds"),
            max_receives: own("max_receives"),
        }
    }

    /// Those of an endpoint.
    pub(super) fn of(detail: &EndpointDetail, revision: String) -> Self {
        let EndpointDetail { endpoint: view, headers, .. } = detail;
        let number =
            |number: Option<u32>| number.map(|number| number.to_string()).unwrap_or_default();
        let lines = headers.iter().flatten().map(|(name, value)| format!("{name}: {value}\n"));
        let schedule = view.policy.retry_schedule.as_ref().map(ToString::to_string);
        Self {
            kind: view.kind.as_str().to_owned(),
            url: view.url.clone().unwrap_or_default(),
            description: view.description.clone().unwrap_or_default(),
            event_types: split(&view.event_types),
            signature: String::new(),
            headers: lines.collect(),
            keeps_headers: headers.is_none(),
            format: view.format.map_or("", Into::into).to_owned(),
            revision,
            max_concurrency: number(view.policy.max_concurrency),
            rate_limit_per_second: number(view.policy.rate_limit_per_second),
            retry_schedule: match schedule.as_deref() {
                Some("") => "none".to_owned(),
                schedule => schedule.unwrap_or_default().replace(',', ", "),
            },
            ordered: view.policy.ordered,
            visibility_seconds: number(view.visibility_seconds),
            max_receives: number(view.max_receives),
        }
    }

    pub(super) fn is_inbox(&self) -> bool {
        self.kind == EndpointKind::Pull.as_str()
    }

    /// The fields of a body that creates it, or changes all of it.
    pub(super) fn body(&self, is_new: bool) -> Map<String, Value> {
        let some = |value: &str| Some(value.to_owned()).filter(|value| !value.is_empty());
        let numbers = |value: &str| number(some(value).as_deref());
        let mut body = Map::new();
        let mut set = |name: &str, value: Value| {
            body.insert(name.to_owned(), value);
        };
        set("description", text(some(&self.description).as_deref()));
        set("event_types", json!(self.event_types));
        set("ordered", json!(self.ordered));
        if self.is_inbox() {
            set("visibility_seconds", numbers(&self.visibility_seconds));
            set("max_receives", numbers(&self.max_receives));
        } else {
            set("url", json!(self.url));
            if !self.keeps_headers || !self.headers.is_empty() {
                set("headers", headers(&self.headers));
            }
            if !self.format.is_empty() {
                set("format", json!(self.format));
            }
            set("max_concurrency", numbers(&self.max_concurrency));
            set("rate_limit_per_second", numbers(&self.rate_limit_per_second));
            set("retry_schedule", schedule(&self.retry_schedule));
        }
        if is_new {
            set("kind", json!(if self.is_inbox() { "pull" } else { "webhook" }));
            if !self.is_inbox() && !self.signature.is_empty() {
                set("signature", json!(self.signature));
            }
        }
        body
    }

    /// The form with these values.
    pub(super) async fn form(
        &self,
        visitor: &Visitor,
        reach: CallerReach,
        (action, submit): (String, &str),
        is_new: bool,
    ) -> Result<ConsoleForm, ConsoleError> {
        let seen = accounts::types_seen(visitor.app.replica_reads(), reach, TYPES_OFFERED);
        let seen = seen.await?.into_iter();
        let seen: Vec<String> = seen.filter(|name| !EventType::is_operational(name)).collect();
        let others = self.event_types.iter().filter(|filter| !seen.contains(filter));
        let others = others.cloned().collect::<Vec<_>>().join(", ");
        let options = seen.iter().map(|name| (name.clone(), self.event_types.contains(name)));
        let options: Vec<(String, bool)> = options.collect();
        let mut form = ConsoleForm::post(action, &visitor.csrf(), submit).cancel(PATH);
        if !self.is_inbox() {
            let url =
                FormField::new("url", "URL", FieldKind::Input("url")).value(&*self.url).required();
            let url = url.hint("Where webhooks are posted, such as https://example.com/hooks");
            form = form.field(url.checked_at(format!("{PATH}/check-url")));
        }
        form = form.field(
            FormField::line("description", "Description")
                .value(&*self.description)
                .hint("For people."),
        );
        if !options.is_empty() {
            let hint = "Types that were seen. None chosen and none written means every event.";
            form = form.field(
                FormField::new("event_types", "Event types", FieldKind::Checks(options)).hint(hint),
            );
        }
        let label = if seen.is_empty() { "Event types" } else { "Other event types" };
        let hint = "Separated by commas: user.login, or a prefix such as invoice.*. Nothing means every event.";
        form = form.field(FormField::line("other_types", label).value(others).hint(hint));
        form = if self.is_inbox() { self.inbox(form) } else { self.webhook(form, is_new) };
        let ordered = FormField::new("ordered", "Deliver in order", FieldKind::Check);
        let ordered = ordered.hint("One at a time, in the order in which events were accepted. A failing one holds up the others.");
        form = form.field(ordered.value(if self.ordered { "true" } else { "" }));
        let hidden = |name, value: &str| FormField::new(name, "", FieldKind::Hidden).value(value);
        form = form.field(hidden("kind", &self.kind)).field(hidden("revision", &self.revision));
        Ok(if self.keeps_headers { form.field(hidden("keeps_headers", "true")) } else { form })
    }

    fn webhook(&self, form: ConsoleForm, is_new: bool) -> ConsoleForm {
        let mut form = form;
        if is_new {
            let schemes =
                [("", "HMAC-SHA256, the usual one"), ("ed25519", "Ed25519, with a public key")];
            let schemes = schemes.map(|(value, label)| (value.to_owned(), label.to_owned()));
            let scheme =
                FormField::new("signature", "Signature", FieldKind::Select(schemes.to_vec()));
            form = form.field(scheme.value(&*self.signature));
        }
        let headers =
            FormField::new("headers", "Custom headers", FieldKind::Area).value(&*self.headers);
        let hint = if self.keeps_headers {
            "They cannot be decrypted now, and stay as they are. What is written here takes their place."
        } else {
            "One a line, as in: Authorization: Bearer abc"
        };
        let formats = [("standard", "Standard Webhooks"), ("cloudevents", "CloudEvents")];
        let formats = formats.map(|(value, label)| (value.to_owned(), label.to_owned()));
        let format = FormField::new("format", "Format", FieldKind::Select(formats.to_vec()));
        let schedule =
            FormField::line("retry_schedule", "Retry schedule").value(&*self.retry_schedule);
        form.field(format.value(&*self.format))
            .field(headers.hint(hint))
            .field(schedule.hint("The waits between attempts, such as 5s, 5m, 2h. Nothing follows the server; none means no retries."))
            .field(
                FormField::new("rate_limit_per_second", "Attempts per second at most", FieldKind::Input("number"))
                    .value(&*self.rate_limit_per_second)
                    .hint("1 to 10,000. Nothing means no limit."),
            )
            .field(
                FormField::new("max_concurrency", "Attempts at once at most", FieldKind::Input("number"))
                    .value(&*self.max_concurrency)
                    .hint("1 to 1,000. Nothing follows the server."),
            )
    }

    fn inbox(&self, form: ConsoleForm) -> ConsoleForm {
        form.field(
            FormField::new("visibility_seconds", "Seconds hidden after receipt", FieldKind::Input("number"))
                .value(&*self.visibility_seconds)
                .hint("For so long a received event is given to nobody else. Nothing means 30."),
        )
        .field(
            FormField::new("max_receives", "Receipts at most", FieldKind::Input("number"))
                .value(&*self.max_receives)
                .hint("An event that is received as often without being acknowledged is a dead letter. Nothing means 10."),
        )
    }
}

fn split(filters: &EventTypeFilters) -> Vec<String> {
    let filters = filters.to_string();
    filters.split(',').filter(|filter| !filter.is_empty()).map(str::to_owned).collect()
}

/// Lines of headers as an object. A line without a colon is a name without a value, which the rules refuse.
fn headers(lines: &str) -> Value {
    let mut object = Map::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        object.insert(name.trim().to_owned(), json!(value.trim()));
    }
    Value::Object(object)
}

/// Waits as a list: null follows the server, an empty list means no retries.
fn schedule(waits: &str) -> Value {
    match waits {
        "" => Value::Null,
        "none" => json!([]),
        waits => {
            let waits = waits.split(',').map(str::trim).filter(|wait| !wait.is_empty());
            json!(waits.collect::<Vec<_>>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_the_fields_of_a_body() {
        assert_eq!(headers("a: b\n\n x-c : d:e"), json!({"a": "b", "x-c": "d:e"}));
        assert_eq!(schedule("5s, 5m"), json!(["5s", "5m"]));
        assert_eq!((schedule(""), schedule("none")), (Value::Null, json!([])));
        let values = Values { max_concurrency: "7".to_owned(), ..Values::default() };
        let body = values.body(true);
        assert_eq!((&body["max_concurrency"], &body["kind"]), (&json!(7), &json!("webhook")));
        assert_eq!(body["rate_limit_per_second"], Value::Null);
        assert_eq!((&body["headers"], body.get("format")), (&json!({}), None));
        let unread = Values { keeps_headers: true, ..Values::default() };
        assert_eq!(unread.body(false).get("headers"), None);
        let written = Values { headers: "a: b".to_owned(), ..unread };
        assert_eq!(written.body(false)["headers"], json!({"a": "b"}));
    }
}
