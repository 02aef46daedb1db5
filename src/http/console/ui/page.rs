//! A whole page.

use askama::Template;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::Html;

/// What is around every page of a session.
#[derive(Clone, Debug)]
pub(in crate::http::console) struct Frame {
    /// Who is signed in.
    pub(in crate::http::console) who: String,
    /// The token of forms.
    pub(in crate::http::console) csrf: String,
}

/// What a page of the portal looks like: as of the organisation whose it is.
#[derive(Clone, Debug, Default)]
pub(in crate::http::console) struct Brand {
    pub(in crate::http::console) name: String,
    /// The paths of its image and of its colours.
    pub(in crate::http::console) logo: Option<String>,
    pub(in crate::http::console) theme: Option<String>,
    /// Where the portal leads back to.
    pub(in crate::http::console) back: Option<String>,
}

impl Brand {
    /// With a name alone.
    pub(in crate::http::console) fn named(name: String) -> Self {
        Self { name, ..Self::default() }
    }
}

/// A place in the navigation.
#[derive(Clone, Debug)]
pub(in crate::http::console) struct NavItem {
    pub(in crate::http::console) href: String,
    pub(in crate::http::console) label: &'static str,
    pub(in crate::http::console) is_current: bool,
}

/// A page. Its parts are added one by one.
#[derive(Clone, Debug, Template)]
#[template(path = "console/layout.html")]
pub(in crate::http::console) struct ConsolePage {
    pub(in crate::http::console) title: String,
    pub(in crate::http::console) frame: Option<Frame>,
    pub(in crate::http::console) nav: Vec<NavItem>,
    pub(in crate::http::console) viewing: Option<Html>,
    pub(in crate::http::console) brand: Option<Brand>,
    pub(in crate::http::console) flash: Option<&'static str>,
    crumbs: Vec<(String, String)>,
    actions: Vec<Html>,
    lead: Option<String>,
    sections: Vec<Html>,
    version: &'static str,
    pub(in crate::http::console) status: StatusCode,
}

impl ConsolePage {
    /// A page without navigation.
    pub(in crate::http::console) fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            frame: None,
            nav: Vec::new(),
            viewing: None,
            brand: None,
            flash: None,
            crumbs: Vec::new(),
            actions: Vec::new(),
            lead: None,
            sections: Vec::new(),
            version: env!("CARGO_PKG_VERSION"),
            status: StatusCode::OK,
        }
    }

    pub(in crate::http::console) fn lead(mut self, lead: &str) -> Self {
        self.lead = Some(lead.to_owned());
        self
    }

    pub(in crate::http::console) fn crumb(mut self, href: impl Into<String>, label: &str) -> Self {
        self.crumbs.push((href.into(), label.to_owned()));
        self
    }

    pub(in crate::http::console) fn action(mut self, action: Html) -> Self {
        self.actions.push(action);
        self
    }

    pub(in crate::http::console) fn section(mut self, section: Html) -> Self {
        self.sections.push(section);
        self
    }

    /// The same with another status, for a form that was wrong.
    pub(in crate::http::console) fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }
}

/// A page outside of any session.
pub(in crate::http::console) fn plain_page(title: &str) -> ConsolePage {
    ConsolePage::new(title)
}

impl IntoResponse for ConsolePage {
    fn into_response(self) -> Response {
        let status = self.status;
        let mut response = Response::new(Body::from(self.render().unwrap_or_default()));
        *response.status_mut() = status;
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, html);
        response
    }
}
