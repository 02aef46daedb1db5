//! The portal of an organisation's own customers: how it looks, and links that open it.

use std::time::Duration;

use axum::extract::State;

use crate::api::portal;
use crate::api::views::{PortalLinkView, PortalView};
use crate::domain::{
    PortalChange, PortalColour, PortalGrant, PortalLogo, ReturnUrl, Scope, Scopes, Violation,
};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, EndpointsManage, Scoped};
use crate::http::request::{
    Body, FrameOrigins, Label, MergePatch, NoQuery, PortalName, PortalScopes, Whole, json_fields,
};
use crate::http::respond::{Json, Secret};
use crate::http::state::AppState;
use crate::http::transport::OwnAddress;

type Lasts = Whole<{ *portal::LASTS_SECONDS.start() }, { *portal::LASTS_SECONDS.end() }>;

json_fields! {
    /// A link that opens the portal once.
    pub(in crate::http) struct NewPortalLink {
        /// The account whose events and endpoints its session sees and manages, and no others.
        required account_id: Label,
        /// What its session may do, of what the key may; unset means all of it.
        optional scopes: PortalScopes,
        /// Whether its session only reads: without `endpoints:manage`, whatever `scopes` has.
        optional read_only: bool,
        /// Seconds until its session ends; 43200 if unset. The link itself must be used within an hour.
        optional expires_in: Lasts,
        /// Where its pages lead back to: an `https` URL, or an `http` URL of the reader's machine.
        nullable return_url: ReturnUrl,
    }
}

json_fields! {
    /// A change of how the portal looks.
    pub(in crate::http) struct PortalPatch {
        /// What customers know the organisation by; `null` for its own name.
        patch name: PortalName,
        /// The colour of links and buttons; it is made darker or lighter where it could not be read.
        patch colour: PortalColour,
        /// What stands at the top of each page: a data URL of a PNG, JPEG or WebP image of at most 32 KiB.
        patch logo: PortalLogo,
        /// The origins whose pages may show the portal in a frame; they replace all earlier ones.
        patch allowed_origins: FrameOrigins,
    }
}

/// `POST /api/portal-links`: 200 with the link, which is shown once.
pub(in crate::http) async fn create_link(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    OwnAddress(address): OwnAddress,
    Body(new): Body<NewPortalLink>,
) -> Result<Secret<Json<PortalLinkView>>, ApiError> {
    let NewPortalLink { account_id, scopes, read_only, expires_in, return_url } = new;
    let read_only = read_only.unwrap_or_default();
    let own = tenant.principal.scopes.of_those(PortalGrant::SCOPES);
    let scopes = granted(scopes.map_or(own, |scopes| scopes.0), read_only);
    if scopes.is_empty() {
        let rule = "leaves nothing that a session may do";
        return Err(ApiError::Invalid(vec![Violation::new("read_only", "scope", rule)]));
    }
    let lasts = expires_in.map_or(portal::LASTS_SECONDS_DEFAULT, |seconds| seconds.0);
    let grant = PortalGrant { scopes, lasts_seconds: lasts.into(), return_url };
    let return_url = grant.return_url.as_ref().map(|url| url.as_str().to_owned());
    let (key, by) = (tenant.principal.key_id, tenant.actor());
    let whose = (tenant.org_id, key);
    let made =
        portal::create_link(app.subsystems(), whose, account_id.0.clone(), grant, &by).await?;
    let (token, link) = made;
    Ok(Secret(Json(PortalLinkView {
        url: format!("{address}/console/link/{}", token.reveal()),
        account_id: account_id.0,
        scopes,
        read_only: !scopes.include(Scopes::of(Scope::EndpointsManage)),
        return_url,
        expires_at: link.expires_at,
        session_expires_at: link.created_at.plus(Duration::from_secs(lasts.into())),
    })))
}

/// The scopes of a session. Managing includes reading, which is left when it may not manage.
fn granted(scopes: Scopes, read_only: bool) -> Scopes {
    if !read_only || !scopes.include(Scopes::of(Scope::EndpointsManage)) {
        return scopes;
    }
    scopes.without(Scope::EndpointsManage).with(Scope::EndpointsRead)
}

/// `GET /api/portal`.
pub(in crate::http) async fn show(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    _: NoQuery,
) -> Result<Json<PortalView>, ApiError> {
    Ok(Json((&portal::settings(app.reads(), tenant.org_id).await?).into()))
}

/// `PATCH /api/portal`.
pub(in crate::http) async fn change(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    patch: MergePatch<PortalPatch>,
) -> Result<Json<PortalView>, ApiError> {
    let current = PortalView::from(&portal::settings(app.subsystems(), tenant.org_id).await?);
    let Some(patch) = patch.against(&current)? else { return Ok(Json(current)) };
    let PortalPatch { name, colour, logo, allowed_origins } = patch;
    let change = PortalChange {
        name: name.map(|name| name.0).into_option(),
        colour: colour.into_option(),
        logo: logo.into_option(),
        allowed_origins: allowed_origins.map(|origins| origins.0).or(Vec::new()),
    };
    let by = tenant.actor();
    let changed = portal::change(app.subsystems(), tenant.org_id, &change, &by).await?;
    Ok(Json((&changed).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_only_read_manage_nothing() {
        let manage = Scopes::of(Scope::EndpointsManage);
        let read = granted(PortalGrant::SCOPES, true);
        assert!(!read.include(manage) && read.include(Scopes::of(Scope::EndpointsRead)));
        assert_eq!(granted(manage, true), Scopes::of(Scope::EndpointsRead));
        assert_eq!(granted(manage, false), manage);
        let events = Scopes::of(Scope::EventsRead);
        assert_eq!((granted(events, true), granted(events, false)), (events, events));
    }
}
