//! Extractors of typed bodies and queries.

use std::marker::PhantomData;
use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};
use serde::Serialize;

use super::fields::{JsonFields, QueryFields};
use super::json_object::JsonObject;
use super::listing::{LabelListing, RequestedList};
use super::query::Query;
use super::rules::Rules;
use super::schema::ObjectSchema;
use super::texts::{PageLimit, Text};
use crate::auth::Principal;
use crate::domain::{Cursor, PageRequest, Scopes};
use crate::http::body::{self, ReceivedBody};
use crate::http::byte_budget::Owner;
use crate::http::error::ApiError;
use crate::http::state::AppState;

/// Bytes in such a body at most: a URL, a description and a hundred filters fit well.
pub(in crate::http) const BODY_BYTES_MAX: usize = 64 * 1024;

/// A JSON body with these fields.
#[derive(Debug)]
pub(in crate::http) struct Body<T>(pub(in crate::http) T);

/// A JSON body with these fields that may be left out altogether, which means the same as `{}`.
#[derive(Debug)]
pub(in crate::http) struct OptionalBody<T>(pub(in crate::http) T);

/// No query and no body, or `{}`.
#[derive(Debug)]
pub(in crate::http) struct EmptyBody;

/// A JSON merge patch, RFC 7396, with these fields. What was read may be sent back: a field that is
/// as it was counts as left out.
pub(in crate::http) struct MergePatch<T> {
    object: JsonObject,
    app: AppState,
    fields: PhantomData<T>,
}

/// The query of a list: `limit`, `order`, `cursor`, and these filters.
#[derive(Debug)]
pub(in crate::http) struct List<T = ()> {
    pub(in crate::http) page: PageRequest,
    pub(in crate::http) listing: RequestedList,
    pub(in crate::http) filter: T,
}

/// The query of a list that is not in the order of time: `limit`, `cursor`, and these filters.
#[derive(Debug)]
pub(in crate::http) struct LabelList<T = (), L = PageLimit> {
    /// Rows per page at most, if the request tells it.
    pub(in crate::http) limit: Option<L>,
    pub(in crate::http) listing: LabelListing,
    pub(in crate::http) filter: T,
}

/// A query with these parameters.
#[derive(Debug)]
pub(in crate::http) struct Parameters<T>(pub(in crate::http) T);

/// A JSON body with these fields, and a query with these parameters.
#[derive(Debug)]
pub(in crate::http) struct BodyAndParameters<T, Q>(pub(in crate::http) T, pub(in crate::http) Q);

/// A JSON body with these fields that may be left out, and a query with these parameters.
#[derive(Debug)]
pub(in crate::http) struct OptionalBodyAndParameters<T, Q>(
    pub(in crate::http) T,
    pub(in crate::http) Q,
);

/// No body, or `{}`, and a query with these parameters.
#[derive(Debug)]
pub(in crate::http) struct EmptyBodyAndParameters<Q>(pub(in crate::http) Q);

/// The query of an export: `order`, the oldest first if it is left out, `cursor`, and the filters of its list.
#[derive(Debug)]
pub(in crate::http) struct ExportList<T> {
    pub(in crate::http) after: Option<Cursor>,
    pub(in crate::http) listing: RequestedList,
    pub(in crate::http) filter: T,
}

/// A query without parameters.
#[derive(Debug)]
pub(in crate::http) struct NoQuery;

impl<T: JsonFields> MergePatch<T> {
    /// The patch without these fields, which its sender cannot mean. `a.b` is the field `b` of the object `a`.
    pub(in crate::http) fn without(mut self, fields: &[&'static str]) -> Self {
        self.object.drop_fields(fields);
        self
    }

    /// The change to a resource that its owner reads as `current`; `None` if there is none.
    ///
    /// # Errors
    /// With every fault found, read-only fields that differ among them.
    pub(in crate::http) fn against(
        mut self,
        current: &impl Serialize,
    ) -> Result<Option<T>, ApiError> {
        let current = serde_json::to_value(current).map_err(ApiError::internal)?;
        self.object.drop_unchanged(current);
        if self.object.is_empty() {
            return Ok(None);
        }
        read(self.object, &self.app, Scopes::NONE).map(Some)
    }
}

/// Reads the fields of an object, or lists every fault.
fn read<T: JsonFields>(
    mut object: JsonObject,
    app: &AppState,
    caller: Scopes,
) -> Result<T, ApiError> {
    let rules = Rules { guard: &app.settings().guard, now: app.subsystems().clock.now(), caller };
    let fields = T::read(&mut object, &rules);
    object.finish(fields)
}

/// Reads the fields of an object that did not come as JSON, for a caller with these scopes.
pub(in crate::http) fn read_fields<T: JsonFields>(
    object: serde_json::Map<String, serde_json::Value>,
    app: &AppState,
    caller: Scopes,
) -> Result<T, ApiError> {
    read(JsonObject::of(object), app, caller)
}

/// The scopes of the caller's key; none before it is authenticated.
fn caller(request: &Request) -> Scopes {
    request.extensions().get::<Arc<Principal>>().map_or(Scopes::NONE, |caller| caller.scopes)
}

async fn read_body(app: &AppState, request: Request) -> Result<ReceivedBody, ApiError> {
    let caller = request.extensions().get::<Arc<Principal>>();
    let owner = caller.map_or(Owner::Anyone, |caller| Owner::of(caller));
    body::read(app, owner, request, BODY_BYTES_MAX).await
}

/// Refuses every query parameter.
pub(in crate::http) fn refuse_query(uri: &Uri) -> Result<(), ApiError> {
    if uri.query().is_none() { Ok(()) } else { Query::of(uri).finish() }
}

impl<T: JsonFields> FromRequest<AppState> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, ApiError> {
        refuse_query(request.uri())?;
        body::require_json(request.headers())?;
        let caller = caller(&request);
        let object = JsonObject::parse(&read_body(app, request).await?)?;
        read(object, app, caller).map(Self)
    }
}

impl<T: JsonFields> FromRequest<AppState> for OptionalBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, ApiError> {
        refuse_query(request.uri())?;
        let json = body::require_json(request.headers());
        let caller = caller(&request);
        let body = read_body(app, request).await?;
        // An empty body passes whatever its type is: many clients declare JSON with every request.
        let object = if body.is_empty() {
            JsonObject::default()
        } else {
            json?;
            JsonObject::parse(&body)?
        };
        read(object, app, caller).map(Self)
    }
}

impl FromRequest<AppState> for EmptyBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, ApiError> {
        OptionalBody::<Self>::from_request(request, app).await.map(|OptionalBody(empty)| empty)
    }
}

impl JsonFields for EmptyBody {
    fn read(_: &mut JsonObject, _: &Rules<'_>) -> Option<Self> {
        Some(Self)
    }

    fn describe(_: &mut ObjectSchema) {}
}

impl<T> FromRequest<AppState> for MergePatch<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, ApiError> {
        refuse_query(request.uri())?;
        require_merge_patch(request.headers())?;
        let object = JsonObject::parse(&read_body(app, request).await?)?;
        Ok(Self { object, app: app.clone(), fields: PhantomData })
    }
}

/// `application/merge-patch+json`, or any other JSON.
fn require_merge_patch(headers: &HeaderMap) -> Result<(), ApiError> {
    let taken = "application/merge-patch+json or application/json";
    body::require_json(headers).map_err(|_| ApiError::UnsupportedMediaType { taken })
}

impl<S: Sync, T: QueryFields> FromRequestParts<S> for List<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let mut query = Query::of(&parts.uri);
        let (page, listing) = query.page();
        let filter = T::read(&mut query);
        query.finish()?;
        Ok(Self { page, listing, filter })
    }
}

impl<S: Sync, T: QueryFields, L: Text> FromRequestParts<S> for LabelList<T, L> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let mut query = Query::of(&parts.uri);
        let limit = query.take("limit");
        let listing = query.labels();
        let filter = T::read(&mut query);
        query.finish()?;
        Ok(Self { limit, listing, filter })
    }
}

impl<T> LabelList<T> {
    /// Rows per page at most.
    pub(in crate::http) fn page_limit(&self) -> u32 {
        self.limit.map_or(PageRequest::LIMIT_DEFAULT, |limit| limit.0)
    }
}

impl<S: Sync, T: QueryFields> FromRequestParts<S> for ExportList<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let mut query = Query::of(&parts.uri);
        let listing = query.export();
        let filter = T::read(&mut query);
        query.finish()?;
        Ok(Self { after: listing.after, listing, filter })
    }
}

fn parameters<T: QueryFields>(uri: &Uri) -> Result<T, ApiError> {
    let mut query = Query::of(uri);
    let fields = T::read(&mut query);
    query.finish()?;
    Ok(fields)
}

impl<S: Sync, T: QueryFields> FromRequestParts<S> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parameters(&parts.uri).map(Self)
    }
}

impl<T: JsonFields, Q: QueryFields + Send> FromRequest<AppState> for BodyAndParameters<T, Q> {
    type Rejection = ApiError;

    async fn from_request(mut request: Request, app: &AppState) -> Result<Self, ApiError> {
        let query = parameters(request.uri())?;
        *request.uri_mut() = Uri::default();
        Body::from_request(request, app).await.map(|Body(fields)| Self(fields, query))
    }
}

impl<T: JsonFields, Q: QueryFields + Send> FromRequest<AppState>
    for OptionalBodyAndParameters<T, Q>
{
    type Rejection = ApiError;

    async fn from_request(mut request: Request, app: &AppState) -> Result<Self, ApiError> {
        let query = parameters(request.uri())?;
        *request.uri_mut() = Uri::default();
        let body = OptionalBody::from_request(request, app).await;
        body.map(|OptionalBody(fields)| Self(fields, query))
    }
}

impl<Q: QueryFields + Send> FromRequest<AppState> for EmptyBodyAndParameters<Q> {
    type Rejection = ApiError;

    async fn from_request(mut request: Request, app: &AppState) -> Result<Self, ApiError> {
        let query = parameters(request.uri())?;
        *request.uri_mut() = Uri::default();
        EmptyBody::from_request(request, app).await.map(|_| Self(query))
    }
}

impl<S: Sync> FromRequestParts<S> for NoQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        refuse_query(&parts.uri).map(|()| Self)
    }
}
