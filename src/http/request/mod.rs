//! Typed requests: what a route takes in its body and query, declared once per field.
//!
//! # Operation
//! A route's body is a struct that [`json_fields!`] declares, its query one that [`query_fields!`]
//! declares. Each field has a name, a type, a presence and a doc line, and the declaration gives the
//! struct, its parser and its JSON Schema ([`Route::request`](super::Route)). Handlers take them by an
//! extractor: [`Body`], [`OptionalBody`], [`EmptyBody`], [`MergePatch`], [`List`], [`LabelList`],
//! [`Parameters`], [`NoQuery`].
//!
//! Derived deserialisers stop at the first fault and know nothing of the caller. These parsers list
//! every fault, refuse unknown and repeated fields, and check values against [`rules::Rules`]. Events are not
//! read this way: they have a parser of their own.

mod describe;
mod extractors;
mod fields;
pub(super) mod json_object;
mod listing;
mod patch;
mod portal;
mod posted;
pub(super) mod query;
pub(super) mod rules;
pub(super) mod schema;
mod texts;
mod values;

pub(super) use describe::{BODY_PROBLEMS, JSON_PROBLEMS};
pub(super) use extractors::{
    BODY_BYTES_MAX, Body, BodyAndParameters, EmptyBody, EmptyBodyAndParameters, ExportList,
    LabelList, List, MergePatch, NoQuery, OptionalBody, OptionalBodyAndParameters, Parameters,
    read_fields, refuse_query,
};
pub(super) use fields::{JsonFields, QueryFields, json_fields, query_fields};
pub(super) use listing::{ForwardPage, LabelListing, ListPage, Positioned, RequestedList};
pub(super) use patch::Patch;
pub(super) use portal::{FrameOrigins, PortalName, PortalScopes};
pub(super) use posted::{DescribesBody, UnreadRequest};
pub use schema::RequestSchema;
pub(super) use schema::{Input, Inputs, header, parameter};
pub(super) use texts::{
    FailedStatus, Flag, Include, Label, Number, OnDuplicate, PageLimit, Text, WindowName,
};
pub(super) use values::{
    Description, EndpointUrl, EventIds, ExpiresAt, LimitValue, Name, OwnScopes, TenantScopes,
    Whole, wire_name,
};
