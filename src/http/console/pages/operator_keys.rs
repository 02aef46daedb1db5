//! Every key, for operators: those of organisations and their own.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::keys::{body, controls, facts, new_form, shown_once, table};
use crate::api::keys;
use crate::api::views::{KeyView, NewKeyView};
use crate::domain::{ApiKeyId, Role, Scope};
use crate::http::console::failure::{ConsoleError, see_other, violations};
use crate::http::console::lists;
use crate::http::console::posted::{FormData, PostedForm, number};
use crate::http::console::ui::{Cell, ConsolePage, Panel, paragraph};
use crate::http::console::visitor::Visitor;
use crate::http::error::ApiError;
use crate::http::extract::Id;
use crate::http::routes::keys::{KeyRotation, NewKey};

const PATH: &str = "/console/operator-keys";

/// `GET /console/operator-keys`.
pub(in crate::http::console) async fn list(visitor: Visitor) -> Result<ConsolePage, ConsoleError> {
    visitor.operator(Scope::OperatorRead)?;
    let subsystems = visitor.app.reads();
    let (request, list) = lists::page_request(&visitor)?;
    let found = keys::list(subsystems, request).await?;
    let (first, next) = visitor.list_pages(&list, found.next_cursor);
    let (now, own) = (subsystems.clock.now(), visitor.open.principal.key_id);
    let keys = found.data.into_iter().map(|key| KeyView::new(key, now));
    let page = visitor.page("API keys").lead("Of operators and of every organisation.");
    let page = page.section(table(keys, PATH, own).pages(first, next).html());
    if !visitor.may(Scope::OperatorWrite) {
        return Ok(page);
    }
    let form = new_form(&visitor, PATH, visitor.open.principal.scopes, &FormData::default());
    let parts = vec![
        paragraph("A key for operators. Keys of an organisation are created on its page."),
        form.html(),
    ];
    Ok(page.section(Panel::html("New operator key", parts)))
}

/// `POST /console/operator-keys`.
pub(in crate::http::console) async fn create(
    PostedForm { visitor, form }: PostedForm,
) -> Result<Response, ConsoleError> {
    let by = visitor.operator(Scope::OperatorWrite)?;
    let scopes = visitor.open.principal.scopes;
    let created = async {
        let new: NewKey = FormData::fields(&visitor, body(&form))?;
        let spec = new.spec(Role::Operator, scopes);
        Ok(keys::create(visitor.app.subsystems(), spec, Role::Operator, &by).await?)
    };
    match created.await {
        Ok(issued) => {
            let key = NewKeyView::new(issued, visitor.app.subsystems().clock.now());
            Ok(shown_once(&visitor, (PATH, "Key created"), &key).into_response())
        }
        Err(error) => {
            let form = new_form(&visitor, PATH, scopes, &form).violations(&violations(error)?);
            let page = visitor.page("Create key").crumb(PATH, "API keys");
            let page = page.section(Panel::html("", vec![form.html()]));
            Ok(page.status(StatusCode::UNPROCESSABLE_ENTITY).into_response())
        }
    }
}

/// `GET /console/operator-keys/{id}`.
pub(in crate::http::console) async fn one(
    visitor: Visitor,
    Id(id): Id<ApiKeyId>,
) -> Result<ConsolePage, ConsoleError> {
    visitor.operator(Scope::OperatorRead)?;
    let subsystems = visitor.app.reads();
    let key = KeyView::new(keys::one(subsystems, id).await?, subsystems.clock.now());
    let whose = match key.org_id {
        Some(org) => Cell::link(format!("/console/orgs/{org}"), org),
        None => Cell::text("operators"),
    };
    let page = visitor.page(&*key.name).crumb(PATH, "API keys");
    let page = page.section(facts(PATH, &key).with("Belongs to", whose).html());
    let may = visitor.may(Scope::OperatorWrite);
    Ok(if may { controls(page, &visitor, PATH, &key) } else { page })
}

/// `POST /console/operator-keys/{id}/rename`.
pub(in crate::http::console) async fn rename(
    Id(id): Id<ApiKeyId>,
    PostedForm { visitor, form }: PostedForm,
) -> Result<Response, ConsoleError> {
    let by = visitor.operator(Scope::OperatorWrite)?;
    keys::rename(visitor.app.subsystems(), id, form.text("name"), &by).await?;
    Ok(see_other(&format!("{PATH}/{id}?done=saved")))
}

/// `POST /console/operator-keys/{id}/rotate`.
pub(in crate::http::console) async fn rotate(
    Id(id): Id<ApiKeyId>,
    PostedForm { visitor, form }: PostedForm,
) -> Result<ConsolePage, ConsoleError> {
    let by = visitor.operator(Scope::OperatorWrite)?;
    let subsystems = visitor.app.subsystems();
    let old = keys::one(subsystems, id).await?;
    if old.role == Role::Operator && !visitor.open.principal.scopes.include(old.scopes) {
        return Err(ApiError::ScopeRequired(old.scopes).into());
    }
    let fields = [("grace_seconds".to_owned(), number(form.some("grace_seconds")))];
    let rotation: KeyRotation = FormData::fields(&visitor, fields.into_iter().collect())?;
    let issued = keys::rotate(subsystems, old, rotation.grace(), Role::Operator, &by).await?;
    let key = NewKeyView::new(issued, subsystems.clock.now());
    Ok(shown_once(&visitor, (PATH, "Key rotated"), &key))
}

/// `POST /console/operator-keys/{id}/revoke`.
pub(in crate::http::console) async fn revoke(
    Id(id): Id<ApiKeyId>,
    PostedForm { visitor, .. }: PostedForm,
) -> Result<Response, ConsoleError> {
    let by = visitor.operator(Scope::OperatorWrite)?;
    keys::revoke(visitor.app.subsystems(), id, &by).await?;
    Ok(see_other(&format!("{PATH}/{id}?done=revoked")))
}
