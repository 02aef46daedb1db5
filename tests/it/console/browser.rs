//! A browser without scripts: it keeps the cookie, follows redirects and sends forms.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Method};

/// A browser with one window.
#[derive(Clone)]
pub(super) struct Browser {
    base: String,
    client: Client,
    pub(super) cookie: Option<String>,
    /// The token of the last page that had a form.
    pub(super) csrf: String,
    /// What it sends along, such as the `Host` of another name.
    pub(super) headers: Vec<(&'static str, String)>,
}

/// A page, or a redirect.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) status: u16,
    pub(super) path: String,
    pub(super) headers: reqwest::header::HeaderMap,
    pub(super) text: String,
}

impl Browser {
    pub(super) fn new(base: &str) -> Self {
        crate::support::client();
        let client = Client::builder().no_proxy().redirect(Policy::none());
        let client = client.timeout(Duration::from_mins(1)).build().unwrap();
        let (cookie, csrf) = (None, String::new());
        Self { base: base.to_owned(), client, cookie, csrf, headers: Vec::new() }
    }

    /// Signs in by the form.
    pub(super) async fn sign_in(&mut self, key: &str) {
        let loaded = self.post("/console/sign-in", &[("key", key)]).await;
        assert_eq!((loaded.status, loaded.path.as_str()), (200, "/console"), "{}", loaded.text);
    }

    /// Opens a stream of server-sent events.
    pub(super) async fn stream(&self, path: &str) -> reqwest::Response {
        let request = self.client.get(format!("{}{path}", self.base));
        let request = request.header("accept", "text/event-stream");
        let request = match &self.cookie {
            Some(cookie) => request.header("cookie", cookie),
            None => request,
        };
        request.send().await.unwrap()
    }

    /// The bytes of a page as they are sent to a browser, which takes gzip.
    pub(super) async fn compressed_size(&mut self, path: &str) -> usize {
        let request = self.client.get(format!("{}{path}", self.base));
        let request = request.header("accept-encoding", "gzip");
        let answer = request.header("cookie", self.cookie.as_ref().unwrap()).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.headers()["content-encoding"], "gzip", "{path}");
        answer.bytes().await.unwrap().len()
    }

    /// Loads a page, and follows where it leads.
    pub(super) async fn get(&mut self, path: &str) -> Loaded {
        let loaded = self.load(Method::GET, path, None).await;
        self.follow(loaded).await
    }

    /// Sends a form with the token of the last page, and follows where it leads.
    pub(super) async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Loaded {
        let loaded = self.post_only(path, fields).await;
        self.follow(loaded).await
    }

    /// The same without following.
    pub(super) async fn post_only(&mut self, path: &str, fields: &[(&str, &str)]) -> Loaded {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("csrf", &self.csrf).extend_pairs(fields);
        self.load(Method::POST, path, Some(form.finish())).await
    }

    async fn follow(&mut self, mut loaded: Loaded) -> Loaded {
        for _ in 0..5 {
            let Some(to) = loaded.headers.get("location") else { return loaded };
            let to = to.to_str().unwrap().to_owned();
            loaded = self.load(Method::GET, &to, None).await;
        }
        panic!("redirected in a circle: {loaded:?}")
    }

    /// One request.
    pub(super) async fn load(
        &mut self,
        method: Method,
        path: &str,
        form: Option<String>,
    ) -> Loaded {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        request = request.header("accept-encoding", "identity");
        if let Some(cookie) = &self.cookie {
            request = request.header("cookie", cookie);
        }
        if let Some(form) = form {
            let origin = self.base.clone();
            request =
                request.header("content-type", "application/x-www-form-urlencoded").body(form);
            if !self.headers.iter().any(|(name, _)| *name == "origin") {
                request = request.header("origin", origin).header("sec-fetch-site", "same-origin");
            }
        }
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let answer = request.send().await.unwrap();
        for set in answer.headers().get_all("set-cookie") {
            let set = set.to_str().unwrap();
            let (cookie, name) = (set.split(';').next().unwrap(), set.split('=').next().unwrap());
            if !set.contains("Max-Age=0") {
                self.cookie = Some(cookie.to_owned());
            } else if self.cookie.as_ref().is_some_and(|kept| kept.starts_with(&format!("{name}=")))
            {
                self.cookie = None;
            }
        }
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        if let Some((_, rest)) = text.split_once("name=\"csrf\" value=\"") {
            let token = rest.split('"').next().unwrap();
            if !token.is_empty() {
                token.clone_into(&mut self.csrf);
            }
        }
        Loaded { status, path: path.to_owned(), headers, text }
    }
}

impl Loaded {
    /// The page, once its status is this one.
    pub(super) fn expect(&self, status: u16) -> &str {
        assert_eq!(self.status, status, "{}: {}", self.path, self.text);
        &self.text
    }

    /// Checks that the page shows a text.
    pub(super) fn shows(&self, text: &str) -> &Self {
        assert!(self.text.contains(text), "{} does not show {text}: {}", self.path, self.text);
        self
    }

    /// Checks that it does not.
    pub(super) fn hides(&self, text: &str) -> &Self {
        assert!(!self.text.contains(text), "{} shows {text}: {}", self.path, self.text);
        self
    }

    /// The text between two others.
    pub(super) fn between(&self, before: &str, after: &str) -> &str {
        let found = self.text.split_once(before).and_then(|(_, rest)| rest.split_once(after));
        found.unwrap_or_else(|| panic!("{}: no {before}: {}", self.path, self.text)).0
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}
