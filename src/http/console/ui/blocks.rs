//! Smaller parts: facts, tiles, code, panels and buttons.

use askama::Template;

use super::{Cell, Html, html};

/// Names with their values.
#[derive(Clone, Debug, Template)]
#[template(path = "console/facts.html")]
pub(in crate::http::console) struct FactList {
    heading: String,
    facts: Vec<(String, Cell)>,
    extras: Vec<Html>,
}

/// Figures at the head of a page.
#[derive(Clone, Debug, Template)]
#[template(path = "console/tiles.html")]
pub(in crate::http::console) struct Tiles {
    pub(in crate::http::console) tiles: Vec<Tile>,
}

/// One figure.
#[derive(Clone, Debug)]
pub(in crate::http::console) struct Tile {
    pub(in crate::http::console) label: &'static str,
    pub(in crate::http::console) value: String,
    pub(in crate::http::console) note: String,
}

/// Text for programs, with a button to copy it where there are scripts.
#[derive(Clone, Debug, Template)]
#[template(path = "console/code.html")]
pub(in crate::http::console) struct CodeBlock {
    label: String,
    html: String,
}

/// A box around other parts.
#[derive(Clone, Debug, Template)]
#[template(path = "console/panel.html")]
pub(in crate::http::console) struct Panel {
    heading: String,
    class: &'static str,
    parts: Vec<Html>,
}

/// A button that changes something, by `POST`. One that cannot be taken back asks before.
#[derive(Clone, Debug, Template)]
#[template(path = "console/button.html")]
pub(in crate::http::console) struct Button {
    action: String,
    label: String,
    csrf: String,
    hidden: Vec<(String, String)>,
    class: &'static str,
    confirm: String,
}

impl FactList {
    pub(in crate::http::console) fn new(heading: &str) -> Self {
        let heading = heading.to_owned();
        Self { heading, facts: Vec::new(), extras: Vec::new() }
    }

    pub(in crate::http::console) fn with(mut self, name: &str, value: Cell) -> Self {
        self.facts.push((name.to_owned(), value));
        self
    }

    /// The same, left out when there is nothing.
    pub(in crate::http::console) fn with_some(self, name: &str, value: Cell) -> Self {
        if matches!(value, Cell::None) { self } else { self.with(name, value) }
    }

    /// Something below the facts.
    pub(in crate::http::console) fn extra(mut self, part: Html) -> Self {
        self.extras.push(part);
        self
    }

    pub(in crate::http::console) fn html(&self) -> Html {
        html(self)
    }
}

impl Tiles {
    pub(in crate::http::console) fn html(&self) -> Html {
        html(self)
    }
}

impl Tile {
    pub(in crate::http::console) fn new(
        label: &'static str,
        value: impl Into<String>,
        note: impl Into<String>,
    ) -> Self {
        Self { label, value: value.into(), note: note.into() }
    }
}

impl CodeBlock {
    pub(in crate::http::console) fn text(label: &str, text: &str) -> Html {
        html(&Self { label: label.to_owned(), html: super::escaped(text) })
    }

    /// JSON, indented and coloured, if it is not too large for that.
    pub(in crate::http::console) fn json(label: &str, text: &str) -> Html {
        html(&Self { label: label.to_owned(), html: crate::http::console::json_text::html(text) })
    }
}

impl Panel {
    pub(in crate::http::console) fn html(heading: &str, parts: Vec<Html>) -> Html {
        html(&Self { heading: heading.to_owned(), class: "", parts })
    }

    /// For what cannot be taken back.
    pub(in crate::http::console) fn danger(heading: &str, parts: Vec<Html>) -> Html {
        html(&Self { heading: heading.to_owned(), class: "danger", parts })
    }

    /// For what must not be overlooked.
    pub(in crate::http::console) fn warning(text: &str) -> Html {
        Html(format!("<p class=\"warning\" role=\"alert\">{}</p>", super::escaped(text)))
    }
}

impl Button {
    pub(in crate::http::console) fn new(
        label: &str,
        action: impl Into<String>,
        csrf: &str,
    ) -> Self {
        Self {
            action: action.into(),
            label: label.to_owned(),
            csrf: csrf.to_owned(),
            hidden: Vec::new(),
            class: "",
            confirm: String::new(),
        }
    }

    pub(in crate::http::console) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.hidden.push((name.to_owned(), value.into()));
        self
    }

    /// The most important one of a page.
    pub(in crate::http::console) fn main(mut self) -> Self {
        self.class = "main";
        self
    }

    /// One that asks before it does what cannot be taken back.
    pub(in crate::http::console) fn danger(mut self, confirm: &str) -> Self {
        self.class = "danger";
        confirm.clone_into(&mut self.confirm);
        self
    }

    pub(in crate::http::console) fn html(&self) -> Html {
        html(self)
    }

    /// A link that looks like a button.
    pub(in crate::http::console) fn link(label: &str, href: &str, is_main: bool) -> Html {
        let class = if is_main { "button main" } else { "button" };
        let (label, href) = (super::escaped(label), super::escaped(href));
        Html(format!("<a class=\"{class}\" href=\"{href}\">{label}</a>"))
    }
}
