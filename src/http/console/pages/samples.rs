//! Code samples, filled in with this server's address and the tenant's own endpoint.

use axum::http::HeaderMap;

use super::endpoints::{name, shown};
use crate::api::endpoints;
use crate::api::views::EndpointView;
use crate::domain::{EndpointId, EndpointKind, PageRequest, Scope};
use crate::http::console::failure::ConsoleError;
use crate::http::console::ui::{
    CodeBlock, ConsoleForm, ConsolePage, FieldKind, FormField, Html, Panel, escaped, paragraph,
};
use crate::http::console::visitor::Visitor;
use crate::http::transport::OwnAddress;

const PATH: &str = "/console/samples";
/// Endpoints to choose from.
const ENDPOINTS_OFFERED: u32 = 100;

/// Language, and how an event is posted in it. `BASE` is the server's address.
const SEND: [(&str, &str); 5] = [
    ("curl", include_str!("../samples/send.sh")),
    ("Python", include_str!("../samples/send.py")),
    ("JavaScript", include_str!("../samples/send.mjs")),
    ("Go", include_str!("../samples/send.go.txt")),
    ("Rust", include_str!("../samples/send.rs.txt")),
];
/// Language, and how a webhook is verified in it.
const VERIFY: [(&str, &str); 5] = [
    ("curl and openssl", include_str!("../samples/verify.sh")),
    ("Python", include_str!("../samples/verify.py")),
    ("JavaScript", include_str!("../samples/verify.mjs")),
    ("Go", include_str!("../samples/verify.go.txt")),
    ("Rust", include_str!("../samples/verify.rs.txt")),
];

/// `GET /console/samples`.
pub(in crate::http::console) async fn show(
    headers: HeaderMap,
    visitor: Visitor,
) -> Result<ConsolePage, ConsoleError> {
    let org = visitor.org(Scope::EventsRead)?;
    let OwnAddress(base) = OwnAddress::of(visitor.transport, &headers);
    let mut page = visitor
        .page("Code samples")
        .lead("Replace the key by one of yours with the scope events:write.");
    page = page.section(samples("Post an event", &SEND, &[("BASE", &base)]));
    if visitor.org(Scope::EndpointsRead).is_err() {
        return Ok(page.section(samples(
            "Verify a webhook",
            &VERIFY,
            &[("ENDPOINT", "your endpoint")],
        )));
    }
    let request = PageRequest::first(ENDPOINTS_OFFERED);
    let found = endpoints::list(visitor.app.reads(), org, None, request).await?.data;
    let webhooks: Vec<EndpointView> = found
        .iter()
        .filter(|endpoint| endpoint.kind == EndpointKind::Webhook)
        .map(|endpoint| shown(&visitor, endpoint))
        .collect();
    let wanted = visitor.parsed::<EndpointId>("endpoint_id");
    let chosen = webhooks.iter().find(|endpoint| Some(endpoint.id) == wanted).or(webhooks.first());
    let options = webhooks.iter().map(|endpoint| (endpoint.id.to_string(), name(endpoint)));
    if let Some(endpoint) = chosen {
        let field = FormField::new("endpoint_id", "Endpoint", FieldKind::Select(options.collect()));
        let form = ConsoleForm::filters(PATH).field(field.value(endpoint.id.to_string()));
        page = page.section(form.html());
    }
    let url = chosen.map_or("your endpoint".to_owned(), name);
    Ok(page.section(samples("Verify a webhook", &VERIFY, &[("ENDPOINT", &url)])))
}

fn samples(heading: &str, samples: &[(&str, &str)], values: &[(&str, &str)]) -> Html {
    let mut parts = vec![paragraph(if heading.starts_with("Post") {
        "The answer is 202 once the event is on disk."
    } else {
        "By the Standard Webhooks rules. The secret is shown on the page of the endpoint."
    })];
    for (index, (language, text)) in samples.iter().enumerate() {
        let fill = |text: String, (name, value): &(&str, &str)| text.replace(name, value);
        let text = values.iter().fold((*text).to_owned(), fill);
        let code = CodeBlock::text(&format!("{heading}: {language}"), text.trim_end());
        let open = if index == 0 { " open" } else { "" };
        let language = escaped(language);
        parts.push(Html(format!("<details{open}><summary>{language}</summary>{code}</details>")));
    }
    Panel::html(heading, parts)
}
