//! JSON as people read it: one value in a line.

/// A piece of a JSON text that is laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JsonPiece<'a> {
    /// A bracket, a comma, or a colon with the space behind it.
    Mark(&'a str),
    /// The name of a field, in quotes.
    Key(&'a str),
    /// A string, in quotes.
    String(&'a str),
    /// A number, `true`, `false` or `null`.
    Other(&'a str),
    /// The end of a line, and how deep the next one is nested.
    Line(usize),
}

/// Lays out valid JSON. Every value is byte for byte as it was: numbers keep their digits, objects the order of their
/// fields.
pub fn lay_out_json<'a>(json: &'a str, mut put: impl FnMut(JsonPiece<'a>)) {
    let (mut depth, mut is_empty) = (0_usize, false);
    let mut rest = json.trim_ascii();
    while !rest.is_empty() {
        let (token, behind) = rest.split_at(token_length(rest));
        rest = behind.trim_ascii_start();
        match token {
            "{" | "[" => {
                put(JsonPiece::Mark(token));
                depth += 1;
                is_empty = rest.starts_with(['}', ']']);
                if !is_empty {
                    put(JsonPiece::Line(depth));
                }
            }
            "}" | "]" => {
                depth = depth.saturating_sub(1);
                if !std::mem::take(&mut is_empty) {
                    put(JsonPiece::Line(depth));
                }
                put(JsonPiece::Mark(token));
            }
            "," => {
                put(JsonPiece::Mark(","));
                put(JsonPiece::Line(depth));
            }
            ":" => put(JsonPiece::Mark(": ")),
            _ if !token.starts_with('"') => put(JsonPiece::Other(token)),
            _ if rest.starts_with(':') => put(JsonPiece::Key(token)),
            _ => put(JsonPiece::String(token)),
        }
    }
}

/// The bytes of the token at the head of a text that begins with one.
fn token_length(text: &str) -> usize {
    let is_end = |c: char| c.is_ascii_whitespace() || matches!(c, ',' | ':' | '}' | ']');
    match text.as_bytes().first() {
        Some(b'"') => string_length(text),
        Some(b'{' | b'}' | b'[' | b']' | b',' | b':') => 1,
        _ => text.find(is_end).unwrap_or(text.len()),
    }
}

/// The bytes of the string at the head of a text.
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

#[cfg(test)]
mod tests {
    use super::JsonPiece::{Key, Line, Mark, Other, String};
    use super::*;

    #[test]
    fn pieces_are_told_apart() {
        let mut pieces = Vec::new();
        lay_out_json(r#" {"a\"" :[1.50 , "b:" ],"c":{ }} "#, |piece| pieces.push(piece));
        let expected = [
            Mark("{"),
            Line(1),
            Key(r#""a\"""#),
            Mark(": "),
            Mark("["),
            Line(2),
            Other("1.50"),
            Mark(","),
            Line(2),
            String(r#""b:""#),
            Line(1),
            Mark("]"),
            Mark(","),
            Line(1),
            Key(r#""c""#),
            Mark(": "),
            Mark("{"),
            Mark("}"),
            Line(0),
            Mark("}"),
        ];
        assert_eq!(pieces, expected);
    }

    #[test]
    fn malformed_text_ends() {
        for text in ["}", "\"a", "\"\\", "a b", "{\"é", ":", "\u{a0}", "]]{"] {
            let mut count = 0;
            lay_out_json(text, |_| count += 1);
            assert!(count > 0, "{text}");
        }
    }
}
