//! Requests whose body is read by a parser of its own.

use std::convert::Infallible;
use std::marker::PhantomData;

use axum::extract::{FromRequest, Request};

use super::schema::{Input, RequestSchema};

/// A whole request. `B` describes its body and query.
#[derive(Debug)]
pub(in crate::http) struct UnreadRequest<B> {
    pub(in crate::http) request: Request,
    body: PhantomData<B>,
}

/// What such a request has.
pub(in crate::http) trait DescribesBody {
    /// Adds it to the route's description.
    fn describe(schema: &mut RequestSchema);
}

impl<B> From<Request> for UnreadRequest<B> {
    fn from(request: Request) -> Self {
        Self { request, body: PhantomData }
    }
}

impl<S: Sync, B> FromRequest<S> for UnreadRequest<B> {
    type Rejection = Infallible;

    async fn from_request(request: Request, _: &S) -> Result<Self, Infallible> {
        Ok(request.into())
    }
}

impl<B: DescribesBody> Input for UnreadRequest<B> {
    fn describe(schema: &mut RequestSchema) {
        B::describe(schema);
    }
}
