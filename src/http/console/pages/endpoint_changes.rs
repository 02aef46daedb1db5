//! What is done with endpoints: created, changed, tested, disabled, deleted, and their secrets.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::endpoint_form::Values;
use super::endpoints::{PATH, name};
use crate::api::views::{EndpointView, SecretView, SecretsView, text_for_receivers};
use crate::api::{endpoints, replays};
use crate::domain::{
    Endpoint, EndpointChange, EndpointId, EndpointKind, NewEndpoint, Scope, SecretChoice, Secrets,
    TEST_EVENT_TYPE, Violation,
};
use crate::http::console::failure::{ConsoleError, see_other, sentence, violations};
use crate::http::console::posted::{FormData, PostedForm, number, text, time};
use crate::http::console::ui::{Button, Cell, CodeBlock, ConsolePage, FactList, Panel, paragraph};
use crate::http::console::visitor::Visitor;
use crate::http::entity_tag::IfMatch;
use crate::http::error::ApiError;
use crate::http::extract::Id;
use crate::http::routes::endpoint_secrets::SecretRotation;
use crate::http::routes::endpoint_test;
use crate::http::routes::endpoints::{DISABLED_BY_OWNER, EndpointBody, EndpointPatch};
use crate::http::routes::replays::EndpointReplay;
use crate::store::StoreError;

/// What is said to whom somebody else was quicker.
const CHANGED_MEANWHILE: &str = "Nothing was saved: the endpoint was changed meanwhile. Below is what you wrote. Saving it again replaces what is \
                                 there now.";

/// `GET /console/endpoints/new`.
pub(in crate::http::console) async fn new(visitor: Visitor) -> Result<ConsolePage, ConsoleError> {
    let kind = visitor.parameter("kind").filter(|_| !visitor.is_portal());
    let kind = kind.unwrap_or_else(|| "webhook".to_owned());
    let values = Values::of_kind(kind);
    new_page(&visitor, &values, &[]).await
}

async fn new_page(
    visitor: &Visitor,
    values: &Values,
    violations: &[Violation],
) -> Result<ConsolePage, ConsoleError> {
    let (reach, _) = visitor.change(Scope::EndpointsManage)?;
    let form = values.form(visitor, reach, (PATH.to_owned(), "Create endpoint"), true).await?;
    let (title, other, label) = if values.is_inbox() {
        ("Add inbox", "webhook", "Add a webhook endpoint instead")
    } else {
        ("Add endpoint", "pull", "Add an inbox instead")
    };
    let mut page = visitor.page(title).crumb(PATH, "Endpoints");
    if !visitor.is_portal() {
        page = page.action(Button::link(label, &format!("{PATH}/new?kind={other}"), false));
    }
    Ok(page.section(Panel::html("", vec![form.violations(violations).html()])))
}

/// `GET /console/endpoints/check-url`: what is wrong with a URL, for the form while one types.
pub(in crate::http::console) async fn check_url(visitor: Visitor) -> Result<String, ConsoleError> {
    visitor.reach(Scope::EndpointsManage)?;
    let url = visitor.parameter("url").unwrap_or_default();
    if url.is_empty() {
        return Ok(String::new());
    }
    let checked = visitor.app.settings().guard.parse_url(&url);
    Ok(checked.err().map_or_else(String::new, |violation| sentence(&violation.message)))
}

/// `POST /console/endpoints`: shows the secret once it is created.
pub(in crate::http::console) async fn create(
    PostedForm { visitor, form }: PostedForm,
) -> Result<Response, ConsoleError> {
    let (reach, by) = visitor.change(Scope::EndpointsManage)?;
    let values = Values::posted(&form);
    let created = async {
        let body: EndpointBody = FormData::fields(&visitor, values.body(true))?;
        Ok(endpoints::create(visitor.app.subsystems(), reach, NewEndpoint::from(&body), &by)
            .await?)
    };
    let endpoint = match created.await {
        Ok(endpoint) => endpoint,
        Err(error) => {
            return Ok(refused(new_page(&visitor, &values, &violations(error)?).await?));
        }
    };
    Ok(created_page(&visitor, &endpoint).into_response())
}

fn created_page(visitor: &Visitor, endpoint: &Endpoint) -> ConsolePage {
    let path = format!("{PATH}/{}", endpoint.id);
    let mut parts = Vec::new();
    let secret = endpoint.secrets.as_ref().ok().map(Secrets::current);
    if endpoint.kind == EndpointKind::Pull {
        parts.push(paragraph("The inbox keeps events until a consumer fetches them."));
    } else if let Some(text) = secret.and_then(text_for_receivers) {
        parts.push(paragraph("Receivers verify webhooks with this secret. It can be shown again."));
        parts.push(CodeBlock::text("Signing secret", &text));
    } else if let Some(key) = secret.and_then(crate::domain::SigningSecret::public_key) {
        parts.push(paragraph("Receivers verify webhooks with this public key."));
        parts.push(CodeBlock::text("Public key", &key.to_string()));
    }
    if endpoint.kind == EndpointKind::Webhook {
        parts.push(
            Button::new("Send test event", format!("{path}/test"), &visitor.csrf()).main().html(),
        );
        if !visitor.is_portal() {
            let samples = format!("/console/samples?endpoint_id={}", endpoint.id);
            parts.push(Button::link("How to verify", &samples, false));
        }
    }
    parts.push(Button::link("To the endpoint", &path, false));
    let title = format!("Created: {}", name(&endpoint.into()));
    visitor.page(title).crumb(PATH, "Endpoints").section(Panel::html("", parts))
}

fn refused(page: ConsolePage) -> Response {
    page.status(StatusCode::UNPROCESSABLE_ENTITY).into_response()
}

/// `GET /console/endpoints/{id}/edit`.
pub(in crate::http::console) async fn edit(
    visitor: Visitor,
    Id(id): Id<EndpointId>,
) -> Result<ConsolePage, ConsoleError> {
    let (reach, _) = visitor.change(Scope::EndpointsManage)?;
    let endpoint = endpoints::one(visitor.app.reads(), reach, id).await?;
    let detail = endpoints::detail(visitor.app.reads(), &endpoint).await?;
    let values = Values::of(&detail, endpoint.revision().to_string());
    edit_page(&visitor, &endpoint, &values, &[]).await
}

async fn edit_page(
    visitor: &Visitor,
    endpoint: &Endpoint,
    values: &Values,
    violations: &[Violation],
) -> Result<ConsolePage, ConsoleError> {
    let path = format!("{PATH}/{}", endpoint.id);
    let action = (path.clone(), "Save");
    let reach = visitor.reach(Scope::EndpointsManage)?;
    let form = values.form(visitor, reach, action, false).await?.cancel(&path);
    let page = visitor.page("Edit endpoint").crumb(PATH, "Endpoints");
    let page = page.crumb(&*path, &name(&EndpointView::from(endpoint)));
    Ok(page.section(Panel::html("", vec![form.violations(violations).html()])))
}

/// `POST /console/endpoints/{id}`.
pub(in crate::http::console) async fn change(
    Id(id): Id<EndpointId>,
    PostedForm { visitor, form }: PostedForm,
) -> Result<Response, ConsoleError> {
    let (reach, by) = visitor.change(Scope::EndpointsManage)?;
    let endpoint = endpoints::one(visitor.app.subsystems(), reach.clone(), id).await?;
    let kind = endpoint.kind.as_str().to_owned();
    let mut values = Values::posted(&form);
    values.kind = kind;
    let changed = async {
        let patch: EndpointPatch = FormData::fields(&visitor, values.body(false))?;
        let change = EndpointChange::from(patch);
        let subsystems = visitor.app.subsystems();
        let subsystems = match values.revision.as_str() {
            "" => subsystems.clone(),
            revision => IfMatch::of_form(revision).allow(subsystems, &endpoint.revision())?,
        };
        Ok(endpoints::change(&subsystems, reach.clone(), id, &change, &by).await?)
    };
    match changed.await {
        Err(ConsoleError::Api(ApiError::Store(StoreError::Changed))) => {
            let now = endpoints::one(visitor.app.subsystems(), reach, id).await?;
            values.revision = now.revision().to_string();
            let page = edit_page(&visitor, &now, &values, &[]).await?.lead(CHANGED_MEANWHILE);
            Ok(page.status(StatusCode::PRECONDITION_FAILED).into_response())
        }
        Ok(_) => Ok(see_other(&format!("{PATH}/{id}?done=saved"))),
        Err(error) => {
            let violations = violations(error)?;
            Ok(refused(edit_page(&visitor, &endpoint, &values, &violations).await?))
        }
    }
}

/// `POST /console/endpoints/{id}/enabled`.
pub(in crate::http::console) async fn enable(
    Id(id): Id<EndpointId>,
    PostedForm { visitor, form }: PostedForm,
) -> Result<Response, ConsoleError> {
    let (reach, by) = visitor.change(Scope::EndpointsManage)?;
    let enabled = form.is_on("enabled");
    let reason = (!enabled).then(|| DISABLED_BY_OWNER.to_owned());
    let change = EndpointChange { disabled_reason: Some(reason), ..EndpointChange::default() };
    endpoints::change(visitor.app.subsystems(), reach, id, &change, &by).await?;
    let done = if enabled { "enabled" } else { "disabled" };
    Ok(see_other(&format!("{PATH}/{id}?done={done}")))
}

/// `POST /console/endpoints/{id}/test`: leads to the delivery, which shows the outcome as it comes.
pub(in crate::http::console) async fn test(
    Id(id): Id<EndpointId>,
    PostedForm { visitor, .. }: PostedForm,
) -> Result<Response, ConsoleError> {
    visitor.change(Scope::EndpointsManage)?;
    let event_type = TEST_EVENT_TYPE.parse().map_err(ApiError::internal)?;
    let (tenant, trace_id) = (visitor.tenant()?, visitor.trace_id.clone());
    let (_, sent) = endpoint_test::send_to(&visitor.app, &tenant, id, event_type, trace_id).await?;
    Ok(see_other(&format!("/console/deliveries/{}", sent.delivery_id)))
}

/// `POST /console/endpoints/{id}/secret`: shows the secrets, which the audit log records.
pub(in crate::http::console) async fn show_secret(
    Id(id): Id<EndpointId>,
    PostedForm { visitor, .. }: PostedForm,
) -> Result<ConsolePage, ConsoleError> {
    let (reach, by) = visitor.change(Scope::EndpointsManage)?;
    let secrets = endpoints::show_secrets(visitor.app.subsystems(), reach, id, &by).await?;
    Ok(secrets_page(&visitor, "Secret", &secrets))
}

/// `POST /console/endpoints/{id}/rotate`.
pub(in crate::http::console) async fn rotate(
    Id(id): Id<EndpointId>,
    PostedForm { visitor, form }: PostedForm,
) -> Result<ConsolePage, ConsoleError> {
    let (reach, by) = visitor.change(Scope::EndpointsManage)?;
    let body = [("overlap_seconds".to_owned(), number(form.some("overlap_seconds")))];
    let SecretRotation { overlap_seconds, .. } =
        FormData::fields(&visitor, body.into_iter().collect())?;
    let overlap = overlap_seconds.map(|seconds| Duration::from_secs(seconds.0.into()));
    let overlap = overlap.unwrap_or(Secrets::OVERLAP_DEFAULT);
    let choice = SecretChoice::default();
    let rotated =
        endpoints::rotate_secret(visitor.app.subsystems(), reach, id, choice, overlap, &by).await?;
    Ok(secrets_page(&visitor, "Secret rotated", &rotated))
}

fn secrets_page(visitor: &Visitor, title: &str, secrets: &SecretsView) -> ConsolePage {
    let path = format!("{PATH}/{}", secrets.id);
    let mut parts = vec![
        paragraph("Give it to the receiver and to nobody else."),
        CodeBlock::text("Signs now", &shown(&secrets.current)),
    ];
    for earlier in &secrets.earlier {
        parts.push(CodeBlock::text("Signs beside it", &shown(&earlier.secret)));
        parts.push(FactList::new("").with("Until", Cell::time(earlier.until)).html());
    }
    parts.push(Button::link("To the endpoint", &path, true));
    let page = visitor.page(title).crumb(PATH, "Endpoints").crumb(&*path, "Endpoint");
    page.section(Panel::html("", parts))
}

fn shown(secret: &SecretView) -> String {
    let public_key = secret.public_key.as_ref().map(ToString::to_string);
    secret.secret.clone().or(public_key).unwrap_or_default()
}

/// `POST /console/endpoints/{id}/replay`: leads to the replay and its progress.
pub(in crate::http::console) async fn replay(
    Id(id): Id<EndpointId>,
    PostedForm { visitor, form }: PostedForm,
) -> Result<Response, ConsoleError> {
    let (reach, by) = visitor.change(Scope::EndpointsManage)?;
    let since = form.some("since").map(time);
    let body = [("since".to_owned(), text(since.as_deref()))];
    let EndpointReplay { since, until } = FormData::fields(&visitor, body.into_iter().collect())?;
    let subsystems = visitor.app.subsystems();
    let replay = replays::start_of_endpoint(subsystems, reach, id, since, until, &by).await?;
    Ok(see_other(&format!("/console/replays/{}", replay.id)))
}

/// `POST /console/endpoints/{id}/cancel-pending`.
pub(in crate::http::console) async fn cancel_pending(
    Id(id): Id<EndpointId>,
    PostedForm { visitor, .. }: PostedForm,
) -> Result<Response, ConsoleError> {
    let (reach, by) = visitor.change(Scope::EndpointsManage)?;
    endpoints::cancel_pending(visitor.app.subsystems(), reach, id, &by).await?;
    Ok(see_other(&format!("{PATH}/{id}?done=cancelled")))
}

/// `POST /console/endpoints/{id}/delete`.
pub(in crate::http::console) async fn delete(
    Id(id): Id<EndpointId>,
    PostedForm { visitor, .. }: PostedForm,
) -> Result<Response, ConsoleError> {
    let (reach, by) = visitor.change(Scope::EndpointsManage)?;
    endpoints::delete(visitor.app.subsystems(), reach, id, &by).await?;
    Ok(see_other(&format!("{PATH}?done=deleted")))
}
