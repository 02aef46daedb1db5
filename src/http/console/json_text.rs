//! JSON as a page shows it: indented, and with its parts told apart.

use serde_json::value::RawValue;

use super::ui::escaped;

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
    let mut marked = Marked::default();
    let mut rest = text.trim();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => string_length(rest),
            '{' | '}' | '[' | ']' | ',' | ':' => 1,
            c if c.is_whitespace() => {
                rest = &rest[c.len_utf8()..];
                continue;
            }
            _ => rest.find([',', '}', ']', ' ', '\n', '\r', '\t']).unwrap_or(rest.len()),
        };
        let (token, behind) = rest.split_at(length);
        rest = behind.trim_start();
        marked.add(token, rest);
    }
    marked.html
}

/// The bytes of the string at the head of a valid JSON text.
fn string_length(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[derive(Default)]
struct Marked {
    html: String,
    depth: usize,
}

impl Marked {
    /// Adds a token; `rest` follows it.
    fn add(&mut self, token: &str, rest: &str) {
        match token {
            "{" | "[" => {
                self.html.push_str(token);
                self.depth += 1;
                if !rest.starts_with(['}', ']']) {
                    self.line();
                }
            }
            "}" | "]" => {
                self.depth = self.depth.saturating_sub(1);
                if !self.html.ends_with(['{', '[']) {
                    self.line();
                }
                self.html.push_str(token);
            }
            "," => {
                self.html.push(',');
                self.line();
            }
            ":" => self.html.push_str(": "),
            _ => {
                let class = match (token.starts_with('"'), rest.starts_with(':')) {
                    (true, true) => "key",
                    (true, false) => "string",
                    (false, _) => "value",
                };
                self.html.push_str("<span class=\"");
                self.html.push_str(class);
                self.html.push_str("\">");
                self.html.push_str(&escaped(token));
                self.html.push_str("</span>");
            }
        }
    }

    fn line(&mut self) {
        self.html.push('\n');
        for _ in 0..self.depth.min(DEPTH_MAX) {
            self.html.push_str("  ");
        }
    }
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
