//! Forms and their fields.

use askama::Template;

use super::{Html, html};
use crate::domain::Violation;

/// A form, with what was wrong with it.
#[derive(Clone, Debug, Template)]
#[template(path = "console/form.html")]
pub(in crate::http::console) struct ConsoleForm {
    class: &'static str,
    method: &'static str,
    action: String,
    csrf: String,
    fields: Vec<FormField>,
    violations: Vec<String>,
    submit: String,
    cancel: Option<String>,
    /// Whether the filters are shown where there is little room.
    is_open: bool,
}

/// One field of a form.
#[derive(Clone, Debug, Template)]
#[template(path = "console/field.html")]
pub(in crate::http::console) struct FormField {
    name: &'static str,
    label: String,
    hint: String,
    value: String,
    kind: FieldKind,
    required: bool,
    error: Option<String>,
    complete: Option<&'static str>,
    /// Where a value is checked while it is typed.
    check: Option<String>,
    /// Whether it is a time, which is in UTC unless scripts turn it into the reader's zone.
    is_time: bool,
}

/// How a value is entered.
#[derive(Clone, Debug)]
pub(in crate::http::console) enum FieldKind {
    /// Not shown.
    Hidden,
    /// On or off.
    Check,
    /// Some of these, each with whether it is chosen.
    Checks(Vec<(String, bool)>),
    /// One of these: value and label.
    Select(Vec<(String, String)>),
    /// Lines of text.
    Area,
    /// One line of this type.
    Input(&'static str),
}

/// A field's hint and error.
#[derive(Template)]
#[template(path = "console/notes.html")]
struct FieldNotes<'a> {
    name: &'a str,
    hint: &'a str,
    error: Option<&'a str>,
    check: Option<&'a str>,
}

impl ConsoleForm {
    /// A form that changes something.
    pub(in crate::http::console) fn post(
        action: impl Into<String>,
        csrf: &str,
        submit: &str,
    ) -> Self {
        Self {
            class: "stack",
            method: "post",
            action: action.into(),
            csrf: csrf.to_owned(),
            fields: Vec::new(),
            violations: Vec::new(),
            submit: submit.to_owned(),
            cancel: None,
            is_open: false,
        }
    }

    /// The filters of a list.
    pub(in crate::http::console) fn filters(action: &str) -> Self {
        let form = Self::post(action, "", "Filter");
        Self { class: "filters", method: "get", cancel: Some(action.to_owned()), ..form }
    }

    pub(in crate::http::console) fn field(mut self, field: FormField) -> Self {
        self.is_open |= !field.value.is_empty();
        self.fields.push(field);
        self
    }

    pub(in crate::http::console) fn cancel(mut self, href: &str) -> Self {
        self.cancel = Some(href.to_owned());
        self
    }

    /// Shows what was wrong: beside the field that it is about, and all of it above.
    pub(in crate::http::console) fn violations(mut self, violations: &[Violation]) -> Self {
        self.is_open |= !violations.is_empty();
        for violation in violations {
            let about = violation.field.split(['[', '.']).next().unwrap_or_default();
            let field = self.fields.iter_mut().find(|field| field.name == about);
            let name = match field {
                Some(field) => {
                    let error = field.error.get_or_insert_default();
                    if !error.is_empty() {
                        error.push_str("; ");
                    }
                    error.push_str(&violation.message);
                    field.label.clone()
                }
                None => violation.field.clone(),
            };
            self.violations.push(format!("{name}: {}", violation.message));
        }
        self
    }

    pub(in crate::http::console) fn html(&self) -> Html {
        html(self)
    }
}

impl FormField {
    /// A field of this kind.
    pub(in crate::http::console) fn new(name: &'static str, label: &str, kind: FieldKind) -> Self {
        Self {
            name,
            label: label.to_owned(),
            hint: String::new(),
            value: String::new(),
            kind,
            required: false,
            error: None,
            complete: None,
            check: None,
            is_time: false,
        }
    }

    /// A time. Its label and hint say that it is in UTC; where there are scripts, they make it one of the reader's zone.
    pub(in crate::http::console) fn time(name: &'static str, label: &str) -> Self {
        let field = Self::line(name, &format!("{label} (UTC)")).hint("Such as 2026-01-31T12:00");
        Self { is_time: true, ..field }
    }

    /// A line of text.
    pub(in crate::http::console) fn line(name: &'static str, label: &str) -> Self {
        Self::new(name, label, FieldKind::Input("text"))
    }

    /// One of these words, or none.
    pub(in crate::http::console) fn choice(
        name: &'static str,
        label: &str,
        any: &str,
        words: &[&str],
    ) -> Self {
        let mut options = vec![(String::new(), any.to_owned())];
        options.extend(words.iter().map(|word| ((*word).to_owned(), word.replace('_', " "))));
        Self::new(name, label, FieldKind::Select(options))
    }

    pub(in crate::http::console) fn value(mut self, value: impl Into<String>) -> Self {
        self.value = value.into();
        self
    }

    pub(in crate::http::console) fn hint(mut self, hint: &str) -> Self {
        hint.clone_into(&mut self.hint);
        self
    }

    pub(in crate::http::console) fn required(mut self) -> Self {
        self.required = true;
        self
    }

    pub(in crate::http::console) fn complete(mut self, complete: &'static str) -> Self {
        self.complete = Some(complete);
        self
    }

    pub(in crate::http::console) fn checked_at(mut self, path: impl Into<String>) -> Self {
        self.check = Some(path.into());
        self
    }

    /// The attributes that tie a field to its hint and error.
    fn described(&self) -> String {
        let has_error = self.error.is_some() || self.check.is_some();
        let ids = [(!self.hint.is_empty(), "h"), (has_error, "e")];
        let ids = ids.iter().filter(|(is_there, _)| *is_there);
        let ids: Vec<_> = ids.map(|(_, kind)| format!("{kind}-{}", self.name)).collect();
        let mut attributes = String::new();
        if !ids.is_empty() {
            attributes = format!(" aria-describedby=\"{}\"", ids.join(" "));
        }
        if self.error.is_some() {
            attributes.push_str(" aria-invalid=\"true\"");
        }
        attributes
    }

    fn notes(&self) -> Html {
        let Self { name, hint, error, check, .. } = self;
        html(&FieldNotes { name, hint, error: error.as_deref(), check: check.as_deref() })
    }
}
