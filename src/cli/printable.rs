//! Text of others, as a terminal may be given it, and JSON as people read it.

/// The text without what a terminal would obey: control characters other than line breaks, and those that change the
/// direction of text, as escapes.
pub(super) fn printable(text: &str) -> String {
    let mut printed = String::with_capacity(text.len());
    for character in text.chars() {
        let turns_text = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (character.is_control() && character != '\n') || turns_text {
            printed.extend(character.escape_unicode());
        } else {
            printed.push(character);
        }
    }
    printed
}

/// Valid JSON with one value in a line, every value byte for byte as it was: numbers keep their digits, objects the
/// order of their fields.
pub(super) fn indented(json: &str) -> String {
    let mut text = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    let mut all = json.chars().peekable();
    while let Some(character) = all.next() {
        if in_string {
            text.push(character);
            in_string = is_escaped || character != '"';
            is_escaped = character == '\\' && !is_escaped;
            continue;
        }
        match character {
            _ if character.is_ascii_whitespace() => {}
            '{' | '[' => {
                text.push(character);
                while all.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(end) = all.next_if(|next| matches!(next, '}' | ']')) {
                    text.push(end);
                } else {
                    depth += 1;
                    break_line(&mut text, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                break_line(&mut text, depth);
                text.push(character);
            }
            ',' => {
                text.push(character);
                break_line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            _ => {
                in_string = character == '"';
                text.push(character);
            }
        }
    }
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
    fn terminal_obeys_nothing() {
        assert_eq!(printable("a\u{1b}[2Jb\n\u{9b}c\u{202e}"), "a\\u{1b}[2Jb\n\\u{9b}c\\u{202e}");
    }
}
