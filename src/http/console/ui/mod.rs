//! The parts that pages are made of. Each is a template of its own; a page is a list of them.

mod blocks;
mod chart;
mod fields;
mod page;
mod table;

use std::fmt::{self, Display};

use askama::Template;

use crate::domain::{DeliveryStatus, Timestamp};

pub(super) use blocks::{Button, CodeBlock, FactList, Panel, Tile, Tiles};
pub(super) use chart::{Chart, ChartBar};
pub(super) use fields::{ConsoleForm, FieldKind, FormField};
pub(super) use page::{Brand, ConsolePage, Frame, NavItem, plain_page};
pub(super) use table::DataTable;

/// HTML whose text is escaped.
#[derive(Clone, Debug, Default)]
pub(super) struct Html(pub(super) String);

/// A value in a table or a list of facts.
#[derive(Clone, Debug)]
pub(super) enum Cell {
    /// Text.
    Text(String),
    /// An id, or another text for programs.
    Code(String),
    /// A path of the console, and its text.
    Link(String, String),
    /// A time.
    Time(Moment),
    /// A state.
    Badge(Tone, String),
    /// A number.
    Number(String),
    /// Parts of its own.
    Html(Html),
    /// Nothing.
    None,
}

/// A time as a page shows it.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    iso: String,
    utc: String,
}

/// What a state means.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tone {
    Good,
    Bad,
    Wait,
    Plain,
}

impl Tone {
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Wait => "wait",
            Self::Plain => "",
        }
    }
}

impl Moment {
    pub(super) fn of(at: Timestamp) -> Self {
        let iso = at.to_string();
        // 2026-01-31T12:00:00.123456Z, down to the second.
        let utc = match (iso.get(..10), iso.get(11..19)) {
            (Some(day), Some(time)) => format!("{day} {time} UTC"),
            _ => iso.clone(),
        };
        Self { iso, utc }
    }
}

/// In UTC, to the second.
impl Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.utc)
    }
}

impl Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) | Self::Number(text) => f.write_str(&escaped(text)),
            Self::Code(text) => write!(f, "<code>{}</code>", escaped(text)),
            Self::Link(href, text) => {
                write!(f, "<a href=\"{}\">{}</a>", escaped(href), escaped(text))
            }
            Self::Time(at) => {
                write!(f, "<time datetime=\"{}\" title=\"{at}\">{at}</time>", escaped(&at.iso))
            }
            Self::Badge(tone, text) => {
                write!(f, "<span class=\"badge {}\">{}</span>", tone.class(), escaped(text))
            }
            Self::Html(html) => html.fmt(f),
            Self::None => f.write_str("<span class=\"quiet\">–</span>"),
        }
    }
}

impl Cell {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// The text, or a dash.
    pub(super) fn maybe(text: Option<impl Into<String>>) -> Self {
        text.map_or(Self::None, |text| Self::Text(text.into()))
    }

    pub(super) fn link(href: impl Into<String>, text: impl Display) -> Self {
        Self::Link(href.into(), text.to_string())
    }

    pub(super) fn code(text: impl Display) -> Self {
        Self::Code(text.to_string())
    }

    pub(super) fn time(at: Timestamp) -> Self {
        Self::Time(Moment::of(at))
    }

    /// The time, or a dash.
    pub(super) fn maybe_time(at: Option<Timestamp>) -> Self {
        at.map_or(Self::None, Self::time)
    }

    pub(super) fn number(number: u64) -> Self {
        Self::Number(grouped(number))
    }

    pub(super) fn badge(tone: Tone, text: impl Into<String>) -> Self {
        Self::Badge(tone, text.into())
    }

    /// The state of a delivery.
    pub(super) fn status(status: DeliveryStatus) -> Self {
        let tone = match status {
            DeliveryStatus::Pending => Tone::Wait,
            DeliveryStatus::Delivered => Tone::Good,
            DeliveryStatus::Dead => Tone::Bad,
            DeliveryStatus::Cancelled => Tone::Plain,
        };
        Self::badge(tone, status.as_str())
    }

    /// Whether something is on.
    pub(super) fn yes(is_so: bool) -> Self {
        Self::text(if is_so { "yes" } else { "no" })
    }
}

impl Display for Html {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Vec<Html>> for Html {
    fn from(parts: Vec<Html>) -> Self {
        Self(parts.into_iter().map(|part| part.0).collect::<Vec<_>>().join("\n"))
    }
}

/// The HTML of a template. One that cannot be written, which no template of ours is, leaves a gap.
pub(super) fn html(template: &impl Template) -> Html {
    Html(template.render().unwrap_or_default())
}

/// Text with the characters escaped that HTML gives a meaning.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#x27;"),
            other => safe.push(other),
        }
    }
    safe
}

/// A paragraph.
pub(super) fn paragraph(text: &str) -> Html {
    Html(format!("<p>{}</p>", escaped(text)))
}

/// The changing parts of a page. A browser with scripts reads the page again every two seconds, as long as `is_changing`,
/// and puts these parts in the place of those that were shown.
pub(super) fn changing(from: &str, is_changing: bool, parts: Vec<Html>) -> Html {
    let (from, parts) = (escaped(from), Html::from(parts));
    let again = if is_changing {
        format!(
            " hx-get=\"{from}\" hx-trigger=\"every 2s\" hx-select=\"#changing\" hx-swap=\"outerHTML\""
        )
    } else {
        String::new()
    };
    Html(format!("<div id=\"changing\" aria-live=\"polite\"{again}>{parts}</div>"))
}

/// A number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes for people.
pub(super) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{} MiB", bytes.div_ceil(1_048_576)),
    }
}

/// A time span for people, in its largest unit.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped() {
        let cell = Cell::link("/console/x?a=\"&b", "<script>alert(1)</script>");
        let text = cell.to_string();
        assert!(!text.contains("<script>") && !text.contains("a=\"&b"), "{text}");
        assert_eq!(escaped("<a href='x'>&\""), "&lt;a href=&#x27;x&#x27;&gt;&amp;&quot;");
    }

    #[test]
    fn numbers_and_times_are_for_people() {
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!((grouped(999), grouped(1000)), ("999".into(), "1\u{202f}000".into()));
        assert_eq!((bytes(1023), bytes(1025)), ("1023 B".into(), "2 KiB".into()));
        assert_eq!(
            (span(119), span(120), span(7200)),
            ("119 s".into(), "2 min".into(), "2 h".into())
        );
        let at = Timestamp::from_micros(1_769_860_800_123_456);
        assert_eq!(Moment::of(at).utc, "2026-01-31 12:00:00 UTC");
    }
}
