//! What people are told of an operation: its name, group and words, and how it fails by itself.

use strum::{IntoStaticStr, VariantArray};

use crate::http::problem::Problem;

/// What is told of an operation that its types do not say.
#[derive(Debug)]
pub struct Operation {
    /// Unique name, for generated clients.
    pub id: &'static str,
    /// Its group.
    pub tag: Tag,
    /// The first line is the summary, the rest the description.
    pub words: &'static [&'static str],
    /// How it fails beside what every operation, its key, its parameters and its body can cause.
    pub(super) problems: &'static [Problem],
    /// A request body, as JSON text; `None` where the required fields make a good one.
    pub example: Option<&'static str>,
}

/// A group of operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, IntoStaticStr, VariantArray)]
pub enum Tag {
    /// Posting and reading events.
    Events,
    /// Pull delivery.
    Inboxes,
    /// Endpoints.
    Endpoints,
    /// Deliveries and their attempts.
    Deliveries,
    /// Dead letters and bulk replays.
    #[strum(serialize = "Dead letters")]
    DeadLetters,
    /// Counts.
    Analytics,
    /// Erasures.
    Erasures,
    /// The caller's own organisation and keys.
    Organisation,
    /// What operators manage.
    Operators,
    /// Health, metrics and documentation.
    Server,
}

impl Tag {
    /// Its name.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// What it holds, in a sentence.
    pub(super) const fn description(self) -> &'static str {
        match self {
            Self::Events => "Post events, and read what was stored.",
            Self::Inboxes => "Fetch events instead of receiving webhooks.",
            Self::Endpoints => "Where events are sent or kept, and how webhooks are signed.",
            Self::Deliveries => "One event on its way to one endpoint, with every attempt.",
            Self::DeadLetters => "Deliveries that were given up, kept for replay.",
            Self::Analytics => "Counts of events and deliveries.",
            Self::Erasures => "Erase events and accounts for good.",
            Self::Organisation => "The caller's organisation, its keys and its audit log.",
            Self::Operators => {
                "Organisations, keys and usage of everybody. Needs an operator's key."
            }
            Self::Server => "Health, metrics and documentation. Needs no key.",
        }
    }
}

impl Operation {
    /// Its summary: a short sentence without a full stop.
    pub fn summary(&self) -> &'static str {
        self.words.first().map_or("", |line| line.trim())
    }

    /// Its description; empty if the summary says it all.
    pub(super) fn description(&self) -> String {
        let lines = self.words.iter().skip(2).map(|line| line.trim());
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Declares operations: doc lines are their words, then `NAME "id" [problems] example;`.
macro_rules! operations {
    ($tag:ident: $(
        $(#[doc = $words:literal])+
        $name:ident $id:literal [$($problem:ident),*] $($example:literal)?;
    )+) => {
        $($(#[doc = $words])+
        pub(in crate::http) const $name: Operation = Operation {
            id: $id,
            tag: Tag::$tag,
            words: &[$($words),+],
            problems: &[$(problem::$problem),*],
            example: operations!(@example $($example)?),
        };)+
    };
    (@example) => { None };
    (@example $example:literal) => { Some($example) };
}
pub(super) use operations;
