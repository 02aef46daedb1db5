//! API keys of an organisation: created, rotated, renamed and revoked.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::api::keys;
use crate::api::views::{KeyView, NewKeyView};
use crate::domain::{ApiKeyId, Role, Scope, Scopes, Violation};
use crate::http::console::failure::{ConsoleError, see_other, violations};
use crate::http::console::lists;
use crate::http::console::posted::{FormData, PostedForm, number, text, time};
use crate::http::console::ui::{
    Button, Cell, CodeBlock, ConsoleForm, ConsolePage, DataTable, FactList, FieldKind, FormField,
    Panel, Tone, paragraph,
};
use crate::http::console::visitor::Visitor;
use crate::http::error::ApiError;
use crate::http::extract::Id;
use crate::http::routes::keys::{KeyRotation, NewKey};

const PATH: &str = "/console/keys";

/// `GET /console/keys`.
pub(in crate::http::console) async fn list(visitor: Visitor) -> Result<ConsolePage, ConsoleError> {
    let org = visitor.org(Scope::KeysRead)?;
    let (request, list) = lists::page_request(&visitor)?;
    let subsystems = visitor.app.reads();
    let found = keys::list_of_org(subsystems, org, request).await?;
    let (first, next) = visitor.list_pages(&list, found.next_cursor);
    let now = subsystems.clock.now();
    let own = visitor.open.principal.key_id;
    let keys = found.data.into_iter().map(|key| KeyView::new(key, now));
    let table = table(keys, PATH, own).pages(first, next);
    let mut page = visitor.page("API keys");
    if visitor.may(Scope::KeysManage) {
        page = page.action(Button::link("Create key", &format!("{PATH}/new"), true));
    }
    Ok(page.section(table.html()))
}

/// Keys as a table.
pub(super) fn table(keys: impl Iterator<Item = KeyView>, path: &str, own: ApiKeyId) -> DataTable {
    let row = |key: KeyView| {
        let name =
            if key.id == own { format!("{} (this session's)", key.name) } else { key.name.clone() };
        vec![
            Cell::link(format!("{path}/{}", key.id), name),
            state(&key),
            Cell::code(key.scopes.to_string().replace(',', ", ")),
            Cell::maybe_time(key.last_used_at),
            Cell::maybe_time(key.expires_at),
            Cell::time(key.created_at),
        ]
    };
    let columns = ["Name", "State", "Scopes", "Last used", "Expires", "Created"];
    DataTable::new("Keys", &columns).rows(keys.map(row)).empty("No key", "")
}

/// Whether a key works.
pub(super) fn state(key: &KeyView) -> Cell {
    match (key.active, key.replaced_by, key.revoked_at) {
        (true, None, _) => Cell::badge(Tone::Good, "active"),
        (true, Some(_), _) => Cell::badge(Tone::Wait, "rotated, in its grace period"),
        (false, Some(_), _) => Cell::badge(Tone::Plain, "rotated"),
        (false, None, Some(_)) => Cell::badge(Tone::Plain, "revoked"),
        (false, None, None) => Cell::badge(Tone::Plain, "expired"),
    }
}

/// `GET /console/keys/new`.
pub(in crate::http::console) async fn new(visitor: Visitor) -> Result<ConsolePage, ConsoleError> {
    visitor.org_change(Scope::KeysManage)?;
    Ok(new_page(&visitor, &FormData::default(), &[]))
}

fn new_page(visitor: &Visitor, form: &FormData, violations: &[Violation]) -> ConsolePage {
    let scopes = visitor.open.principal.scopes;
    let form = new_form(visitor, PATH, scopes, form).cancel(PATH).violations(violations);
    let page = visitor.page("Create key").crumb(PATH, "API keys");
    page.section(Panel::html("", vec![form.html()]))
}

/// The form of a new key with some of these scopes.
pub(super) fn new_form(
    visitor: &Visitor,
    action: &str,
    grantable: Scopes,
    form: &FormData,
) -> ConsoleForm {
    let chosen: Vec<&str> = form.all("scopes").collect();
    let scopes = grantable.iter().map(Scope::as_str);
    let scopes = scopes.map(|scope| (scope.to_owned(), chosen.contains(&scope))).collect();
    let value = |name| form.text(name).to_owned();
    let name = FormField::line("name", "Name").value(value("name")).required();
    let scopes = FormField::new("scopes", "Scopes", FieldKind::Checks(scopes));
    let end = FormField::time("expires_at", "Expires").value(value("expires_at"));
    let rate = FieldKind::Input("number");
    let rate = FormField::new("rate_limit_per_minute", "Events per minute at most", rate);
    let rate = rate.value(value("rate_limit_per_minute"));
    ConsoleForm::post(action, &visitor.csrf(), "Create key")
        .field(name.hint("For people: who or what uses it."))
        .field(
            scopes.hint(
                "What the key may do. None chosen means all that the key of this session may.",
            ),
        )
        .field(end.hint("2026-12-31T12:00. Nothing means never, or with the key of this session."))
        .field(rate.hint("Nothing means as many as the organisation may."))
}

/// `POST /console/keys`: shows the key, which nothing shows again.
pub(in crate::http::console) async fn create(
    PostedForm { visitor, form }: PostedForm,
) -> Result<Response, ConsoleError> {
    let (org, by) = visitor.org_change(Scope::KeysManage)?;
    let created = async {
        let new: NewKey = FormData::fields(&visitor, body(&form))?;
        let own = Role::Tenant(org);
        let spec = new.spec(own, visitor.open.principal.scopes);
        Ok(keys::create(visitor.app.subsystems(), spec, own, &by).await?)
    };
    match created.await {
        Ok(issued) => {
            let now = visitor.app.subsystems().clock.now();
            Ok(shown_once(&visitor, (PATH, "Key created"), &NewKeyView::new(issued, now))
                .into_response())
        }
        Err(error) => {
            let page = new_page(&visitor, &form, &violations(error)?);
            Ok(page.status(StatusCode::UNPROCESSABLE_ENTITY).into_response())
        }
    }
}

/// The fields of a new key.
pub(super) fn body(form: &FormData) -> Map<String, Value> {
    let scopes: Vec<&str> = form.all("scopes").collect();
    let scopes = if scopes.is_empty() { Value::Null } else { json!(scopes) };
    let expires_at = form.some("expires_at").map(time);
    let fields = [
        ("name", Value::from(form.text("name"))),
        ("scopes", scopes),
        ("expires_at", text(expires_at.as_deref())),
        ("rate_limit_per_minute", number(form.some("rate_limit_per_minute"))),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The page of a new key, whose text nothing shows again.
pub(super) fn shown_once(
    visitor: &Visitor,
    (path, title): (&str, &str),
    key: &NewKeyView,
) -> ConsolePage {
    let parts = vec![
        Panel::warning("This key is shown only now. Copy it before you leave the page."),
        CodeBlock::text("API key", &key.key),
        Button::link("Go on", path, true),
    ];
    visitor.page(title).crumb(path, "Back").section(Panel::html(&key.record.name, parts))
}

/// `GET /console/keys/{id}`.
pub(in crate::http::console) async fn one(
    visitor: Visitor,
    Id(id): Id<ApiKeyId>,
) -> Result<ConsolePage, ConsoleError> {
    let org = visitor.org(Scope::KeysRead)?;
    let subsystems = visitor.app.reads();
    let key = KeyView::new(keys::one_of_org(subsystems, org, id).await?, subsystems.clock.now());
    let facts = facts(PATH, &key);
    let page = visitor.page(&*key.name).crumb(PATH, "API keys").section(facts.html());
    Ok(if visitor.may(Scope::KeysManage) { controls(page, &visitor, PATH, &key) } else { page })
}

/// What there is to know of a key.
pub(super) fn facts(path: &str, key: &KeyView) -> FactList {
    let rate = key
        .rate_limit_per_minute
        .map_or(Cell::text("as the organisation"), |rate| Cell::number(rate.into()));
    FactList::new("")
        .with("State", state(key))
        .with("Id", Cell::code(key.id))
        .with("Scopes", Cell::code(key.scopes.to_string().replace(',', ", ")))
        .with("Events per minute", rate)
        .with("Last used", Cell::maybe_time(key.last_used_at))
        .with("Created", Cell::time(key.created_at))
        .with_some("Expires", Cell::maybe_time(key.expires_at))
        .with_some("Revoked", Cell::maybe_time(key.revoked_at))
        .with_some(
            "Replaced by",
            key.replaced_by.map_or(Cell::None, |by| Cell::link(format!("{path}/{by}"), by)),
        )
}

/// What can be done with a key.
pub(super) fn controls(
    page: ConsolePage,
    visitor: &Visitor,
    path: &str,
    key: &KeyView,
) -> ConsolePage {
    let (path, csrf) = (format!("{path}/{}", key.id), visitor.csrf());
    let rename = ConsoleForm::post(format!("{path}/rename"), &csrf, "Rename")
        .field(FormField::line("name", "Name").value(&*key.name).required());
    let page = page.section(Panel::html("Rename", vec![rename.html()]));
    if !key.active {
        return page;
    }
    let grace =
        FormField::new("grace_seconds", "Grace period in seconds", FieldKind::Input("number"));
    let rotate = ConsoleForm::post(format!("{path}/rotate"), &csrf, "Rotate").field(
        grace
            .value("3600")
            .hint("For so long the old key works beside the new one, at most a week."),
    );
    let is_own = key.id == visitor.open.principal.key_id;
    let own = if is_own { " This session is bound to it and ends, too." } else { "" };
    let rotation = vec![
        paragraph(&format!(
            "A new key with the same name, scopes and limits replaces this one.{own}"
        )),
        rotate.html(),
    ];
    let revoke = Button::new("Revoke key", format!("{path}/revoke"), &csrf)
        .danger(&format!("Everything that uses the key is refused from now on.{own}"));
    let page = if key.replaced_by.is_none() {
        page.section(Panel::html("Rotate", rotation))
    } else {
        page
    };
    page.section(Panel::danger("Cannot be taken back", vec![revoke.html()]))
}

/// `POST /console/keys/{id}/rename`.
pub(in crate::http::console) async fn rename(
    Id(id): Id<ApiKeyId>,
    PostedForm { visitor, form }: PostedForm,
) -> Result<Response, ConsoleError> {
    let (org, by) = visitor.org_change(Scope::KeysManage)?;
    keys::one_of_org(visitor.app.subsystems(), org, id).await?;
    keys::rename(visitor.app.subsystems(), id, form.text("name"), &by).await?;
    Ok(see_other(&format!("{PATH}/{id}?done=saved")))
}

/// `POST /console/keys/{id}/rotate`.
pub(in crate::http::console) async fn rotate(
    Id(id): Id<ApiKeyId>,
    PostedForm { visitor, form }: PostedForm,
) -> Result<ConsolePage, ConsoleError> {
    let (org, by) = visitor.org_change(Scope::KeysManage)?;
    let subsystems = visitor.app.subsystems();
    let old = keys::one_of_org(subsystems, org, id).await?;
    if !visitor.open.principal.scopes.include(old.scopes) {
        return Err(ApiError::ScopeRequired(old.scopes).into());
    }
    let fields = [("grace_seconds".to_owned(), number(form.some("grace_seconds")))];
    let rotation: KeyRotation = FormData::fields(&visitor, fields.into_iter().collect())?;
    let issued = keys::rotate(subsystems, old, rotation.grace(), Role::Tenant(org), &by).await?;
    let now = subsystems.clock.now();
    Ok(shown_once(&visitor, (PATH, "Key rotated"), &NewKeyView::new(issued, now)))
}

/// `POST /console/keys/{id}/revoke`.
pub(in crate::http::console) async fn revoke(
    Id(id): Id<ApiKeyId>,
    PostedForm { visitor, .. }: PostedForm,
) -> Result<Response, ConsoleError> {
    let (org, by) = visitor.org_change(Scope::KeysManage)?;
    keys::one_of_org(visitor.app.subsystems(), org, id).await?;
    keys::revoke(visitor.app.subsystems(), id, &by).await?;
    Ok(see_other(&format!("{PATH}/{id}?done=revoked")))
}
