//! What operators do with organisations, and looking into one.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::keys::shown_once;
use super::orgs::PATH;
use crate::api::views::NewKeyView;
use crate::api::{keys, orgs};
use crate::domain::{OrgChange, OrgId, OrgLimit, Role, Scope};
use crate::http::console::failure::{ConsoleError, see_other, violations};
use crate::http::console::posted::{FormData, PostedForm, number};
use crate::http::console::ui::Panel;
use crate::http::console::visitor::Visitor;
use crate::http::error::ApiError;
use crate::http::extract::Id;
use crate::http::routes::keys::NewOrgKey;
use crate::http::routes::orgs::{NewOrg, OrgPatch};

/// `POST /console/orgs`.
pub(in crate::http::console) async fn create(
    PostedForm { visitor, form }: PostedForm,
) -> Result<Response, ConsoleError> {
    let by = visitor.operator(Scope::OperatorWrite)?;
    let created = async {
        let body = [("name".to_owned(), json!(form.text("name")))].into_iter().collect();
        let NewOrg { name, limits, event_type_rates } = FormData::fields(&visitor, body)?;
        let limits = limits.changes();
        let change =
            OrgChange { name: Some(name.0), limits, event_type_rates, ..OrgChange::default() };
        Ok(orgs::create(visitor.app.subsystems(), &change, &by).await?)
    };
    match created.await {
        Ok(org) => Ok(see_other(&format!("{PATH}/{}?done=created", org.id))),
        Err(error) => refused(&visitor, PATH, error),
    }
}

/// A page that tells what was wrong with a form of one or a few fields.
fn refused(visitor: &Visitor, back: &str, error: ConsoleError) -> Result<Response, ConsoleError> {
    let violations = violations(error)?;
    let told =
        violations.iter().map(|violation| format!("{} {}", violation.field, violation.message));
    let told: Vec<_> = told.map(|text| Panel::warning(&text)).collect();
    let page = visitor.page("Nothing was changed").crumb(back, "Back");
    let page = page.section(Panel::html("", told)).status(StatusCode::UNPROCESSABLE_ENTITY);
    Ok(page.into_response())
}

/// `POST /console/orgs/{id}/limits`: name and limits.
pub(in crate::http::console) async fn change(
    Id(id): Id<OrgId>,
    PostedForm { visitor, form }: PostedForm,
) -> Result<Response, ConsoleError> {
    let by = visitor.operator(Scope::OperatorWrite)?;
    let path = format!("{PATH}/{id}");
    let changed = async {
        let mut body: Map<String, Value> = OrgLimit::ALL
            .iter()
            .map(|limit| (limit.name().to_owned(), number(form.some(limit.name()))))
            .collect();
        body.insert("name".to_owned(), json!(form.text("name")));
        let OrgPatch { name, limits, event_type_rates: _ } = FormData::fields(&visitor, body)?;
        let name = name.map(|name| name.0);
        let change = OrgChange { name, limits: limits.changes(), ..OrgChange::default() };
        Ok(orgs::change(visitor.app.subsystems(), id, &change, &by).await?)
    };
    match changed.await {
        Ok(_) => Ok(see_other(&format!("{path}?done=saved"))),
        Err(error) => refused(&visitor, &path, error),
    }
}

/// `POST /console/orgs/{id}/suspend`.
pub(in crate::http::console) async fn suspend(
    Id(id): Id<OrgId>,
    PostedForm { visitor, .. }: PostedForm,
) -> Result<Response, ConsoleError> {
    let by = visitor.operator(Scope::OperatorWrite)?;
    orgs::suspend(visitor.app.subsystems(), id, &by).await?;
    Ok(see_other(&format!("{PATH}/{id}?done=suspended")))
}

/// `POST /console/orgs/{id}/resume`.
pub(in crate::http::console) async fn resume(
    Id(id): Id<OrgId>,
    PostedForm { visitor, .. }: PostedForm,
) -> Result<Response, ConsoleError> {
    let by = visitor.operator(Scope::OperatorWrite)?;
    orgs::resume(visitor.app.subsystems(), id, &by).await?;
    Ok(see_other(&format!("{PATH}/{id}?done=resumed")))
}

/// `POST /console/orgs/{id}/delete`.
pub(in crate::http::console) async fn delete(
    Id(id): Id<OrgId>,
    PostedForm { visitor, .. }: PostedForm,
) -> Result<Response, ConsoleError> {
    let by = visitor.operator(Scope::OperatorWrite)?;
    orgs::delete(visitor.app.subsystems(), id, &by).await?;
    Ok(see_other(&format!("{PATH}/{id}?done=deleting")))
}

/// `POST /console/orgs/{id}/keys`.
pub(in crate::http::console) async fn create_key(
    Id(id): Id<OrgId>,
    PostedForm { visitor, form }: PostedForm,
) -> Result<Response, ConsoleError> {
    let by = visitor.operator(Scope::OperatorWrite)?;
    let path = format!("{PATH}/{id}");
    let created = async {
        let new: NewOrgKey = FormData::fields(&visitor, super::keys::body(&form))?;
        let spec = new.spec(Role::Tenant(id));
        Ok(keys::create(visitor.app.subsystems(), spec, Role::Operator, &by).await?)
    };
    match created.await {
        Ok(issued) => {
            let key = NewKeyView::new(issued, visitor.app.subsystems().clock.now());
            Ok(shown_once(&visitor, (&path, "Key created"), &key).into_response())
        }
        Err(error) => refused(&visitor, &path, error),
    }
}

/// `POST /console/orgs/{id}/view`: the session looks into the organisation, only reading. The audit log of the
/// organisation records it.
pub(in crate::http::console) async fn view(
    Id(id): Id<OrgId>,
    PostedForm { visitor, .. }: PostedForm,
) -> Result<Response, ConsoleError> {
    let by = visitor.operator(Scope::OperatorImpersonate)?;
    orgs::existing(visitor.app.subsystems(), id).await?;
    visitor.app.authenticator.view_org(&visitor.open, id, true, &by).await?;
    Ok(see_other("/console"))
}

/// `POST /console/leave`: the session looks out of the organisation again.
pub(in crate::http::console) async fn leave(
    PostedForm { visitor, .. }: PostedForm,
) -> Result<Response, ConsoleError> {
    let org = visitor.viewed_org().ok_or(ApiError::NotFound)?;
    visitor.app.authenticator.view_org(&visitor.open, org, false, &visitor.actor()).await?;
    Ok(see_other(&format!("{PATH}/{org}")))
}
