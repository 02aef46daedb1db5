//! JSON as a page shows it: indented, and with its parts told apart.

use serde_json::value::RawValue;

use super::ui::escaped;
use crate::domain::{JsonPiece, lay_out_json};

/// JSON that is larger is shown as it is: indenting and marking it makes it several times as large.
const MARKED_BYTES_MAX: usize = 64 * 1024;
/// No more than this of a payload is shown.
const SHOWN_BYTES_MAX: usize = 256 * 1024;
/// Deeper nesting is not indented further.
const DEPTH_MAX: usize = 32;

/// A JSON text as HTML. Its numbers and strings stay as they are, digit by digit.
pub(super) fn html(text: &str) -> String {
    if text.len() > MARKED_BYTES_MAX || serde_json::from_str::<&RawValue>(text).is_err() {
        let shown = text.char_indices().map(|(at, c)| at + c.len_utf8());
        let end = shown.take_while(|end| *end <= SHOWN_BYTES_MAX).last().unwrap_or_default();
        let cut =
            if end < text.len() { "\n… cut; read the whole payload by the API" } else { "" };
        return escaped(&text[..end]) + cut;
    }
    let mut html = String::with_capacity(text.len() * 2);
    lay_out_json(text, |piece| match piece {
        JsonPiece::Mark(mark) => html.push_str(mark),
        JsonPiece::Key(name) => mark(&mut html, "key", name),
        JsonPiece::String(value) => mark(&mut html, "string", value),
        JsonPiece::Other(value) => mark(&mut html, "value", value),
        JsonPiece::Line(depth) => {
            html.push('\n');
            html.extend(std::iter::repeat_n("  ", depth.min(DEPTH_MAX)));
        }
    });
    html
}

fn mark(html: &mut String, class: &str, token: &str) {
    html.extend(["<span class=\"", class, "\">", &escaped(token), "</span>"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text without its marks.
    fn plain(html: &str) -> String {
        let mut text = String::new();
        for part in html.split('<') {
            text.push_str(part.split_once('>').map_or(part, |(_, behind)| behind));
        }
        text.replace("&quot;", "\"").replace("&lt;", "<").replace("&amp;", "&")
    }

    #[test]
    fn json_is_indented_and_escaped() {
        let shown = html(r#"{"a<b":[1.50,"x\"</script>",{}],"n":null}"#);
        assert!(!shown.contains("</script>"), "{shown}");
        assert!(shown.contains("<span class=\"key\">&quot;a&lt;b&quot;</span>: [\n"), "{shown}");
        assert!(shown.contains("<span class=\"value\">1.50</span>,\n    "), "{shown}");
        assert!(shown.contains("{}\n  ],\n"), "{shown}");
    }

    #[test]
    fn shown_json_means_the_same() {
        for text in
            [r#"{"a":[[],{},{"b":[1,2,{"c":"\\\"é"}]}]}"#, "12345678901234567890", "\"x\"", "[]"]
        {
            let shown: serde_json::Value = serde_json::from_str(&plain(&html(text))).unwrap();
            assert_eq!(shown, serde_json::from_str::<serde_json::Value>(text).unwrap(), "{text}");
        }
    }

    #[test]
    fn large_and_malformed_texts_are_shown_as_they_are() {
        assert_eq!(html("{<"), "{&lt;");
        let long = "é".repeat(200_000);
        assert!(html(&long).len() < 257 * 1024);
    }
}
