//! Text of others, as a terminal may be given it, and JSON as people read it.

use crate::domain::{JsonPiece, lay_out_json};

/// The text without what a terminal would obey: control characters other than line breaks, and those that change the
/// direction of text, as escapes.
pub(super) fn printable(text: &str) -> String {
    escaped(text, |character| character != '\n' && is_obeyed(character))
}

/// The same in one line: line breaks are escaped, too, so that nobody writes lines of ours.
pub(super) fn printable_line(text: &str) -> String {
    escaped(text, is_obeyed)
}

/// JSON with these characters as escapes of its own, which mean the same.
pub(super) fn printable_json(json: &str) -> String {
    let mut printed = String::with_capacity(json.len());
    for character in json.chars() {
        if character != '\n' && is_obeyed(character) {
            let mut units = [0; 2];
            let units = character.encode_utf16(&mut units);
            printed.extend(units.iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            printed.push(character);
        }
    }
    printed
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> String {
    let mut printed = String::with_capacity(text.len());
    for character in text.chars() {
        if is_escaped(character) {
            printed.extend(character.escape_unicode());
        } else {
            printed.push(character);
        }
    }
    printed
}

/// Whether a terminal obeys a character instead of showing it.
fn is_obeyed(character: char) -> bool {
    let turns_text = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    character.is_control() || turns_text
}

/// Valid JSON with one value in a line, every value byte for byte as it was: numbers keep their digits, objects the
/// order of their fields.
pub(super) fn indented(json: &str) -> String {
    let mut text = String::with_capacity(json.len() * 2);
    lay_out_json(json, |piece| match piece {
        JsonPiece::Mark(token)
        | JsonPiece::Key(token)
        | JsonPiece::String(token)
        | JsonPiece::Other(token) => text.push_str(token),
        JsonPiece::Line(depth) => break_line(&mut text, depth),
    });
    text
}

fn break_line(text: &mut String, depth: usize) {
    text.push('\n');
    // A hostile depth is not indented further than a screen is wide.
    text.extend(std::iter::repeat_n("  ", depth.min(40)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_and_its_values_are_kept() {
        let json = r#"{"b":1.50,"a":[ ],"c":{"text":"a, {b} \"c\" \\"},"d":[1,{"e":null}]}"#;
        let text = "{\n  \"b\": 1.50,\n  \"a\": [],\n  \"c\": {\n    \"text\": \"a, {b} \\\"c\\\" \\\\\"\n  },\n  \
                    \"d\": [\n    1,\n    {\n      \"e\": null\n    }\n  ]\n}";
        assert_eq!(indented(json), text);
    }

    #[test]
    fn lines_and_json_of_others_stay_what_they_are() {
        assert_eq!(printable_line("a\nb"), "a\\u{a}b");
        let json = "\"\u{9b}\u{202e}\u{7f}\"";
        let printed = printable_json(json);
        assert_eq!(printed, r#""\u009b\u202e\u007f""#);
        let (before, after): (String, String) =
            (serde_json::from_str(json).unwrap(), serde_json::from_str(&printed).unwrap());
        assert_eq!(before, after);
    }

    #[test]
    fn terminal_obeys_nothing() {
        assert_eq!(printable("a\u{1b}[2Jb\n\u{9b}c\u{202e}"), "a\\u{1b}[2Jb\n\\u{9b}c\\u{202e}");
    }
}
