//! The nesting limit of payloads: receivers parse them, and many parsers recurse.

use std::slice;

/// Maximum nesting of arrays and objects. A webhook adds one level and a list of events three, and common
/// parsers still accept the result by default: Ruby's up to 100, `serde_json` up to 127.
///
/// <https://docs.ruby-lang.org/en/3.4/JSON.html#module-JSON-label-Input+Options>,
/// <https://docs.rs/serde_json/1/serde_json/struct.Deserializer.html#method.disable_recursion_limit>
pub(super) const DEPTH_MAX: usize = 96;

/// Whether valid JSON nests deeper than [`DEPTH_MAX`].
pub(super) fn nests_too_deep(json: &[u8]) -> bool {
    // Deeper nesting needs more opening brackets, and as many closing ones. Counting them ignores strings,
    // handles many bytes per cycle, and is enough for nearly all payloads.
    json.len() > 2 * DEPTH_MAX && brackets_opened(json) > DEPTH_MAX && depth(json) > DEPTH_MAX
}

/// Counts opening brackets, also those in strings.
fn brackets_opened(json: &[u8]) -> usize {
    // '[' and '{' differ in this bit only. Sums of at most 255 fit a byte, which vectorises best.
    let opens = |byte: &u8| u8::from(byte | 0x20 == b'{');
    let sums = json.chunks(usize::from(u8::MAX)).map(|bytes| bytes.iter().map(opens).sum::<u8>());
    sums.map(usize::from).sum()
}

/// The maximum nesting.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    deepest
}

/// Skips the rest of a string.
fn skip_string(rest: &mut slice::Iter<'_, u8>) {
    while let Some(byte) = rest.next() {
        match byte {
            b'"' => return,
            b'\\' => _ = rest.next(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// A value in this many arrays and objects, alternately.
    fn nested(depth: usize, value: &str) -> String {
        let open = |level| if level % 2 == 0 { "[" } else { "{\"a\": " };
        let close = |level| if level % 2 == 0 { "]" } else { "}" };
        let (opened, closed): (String, String) =
            ((0..depth).map(open).collect(), (0..depth).rev().map(close).collect());
        format!("{opened}{value}{closed}")
    }

    /// Whether serde_json accepts it inside so many arrays that both limits coincide.
    fn reads(json: &str) -> bool {
        const READ_MAX: usize = 127;
        let (open, close) = ("[".repeat(READ_MAX - DEPTH_MAX), "]".repeat(READ_MAX - DEPTH_MAX));
        serde_json::from_str::<Value>(&format!("{open}{json}{close}")).is_ok()
    }

    #[test]
    fn deepest_nesting_passes_and_one_more_level_does_not() {
        for value in ["1", r#""]]}}\"]]""#] {
            let (good, bad) = (nested(DEPTH_MAX, value), nested(DEPTH_MAX + 1, value));
            assert!(!nests_too_deep(good.as_bytes()) && nests_too_deep(bad.as_bytes()), "{value}");
            assert!(reads(&good) && !reads(&bad), "{value}");
        }
        assert!(nests_too_deep(&"[".repeat(1_000_000).into_bytes()));
    }

    #[test]
    fn brackets_count_where_they_nest_and_not_in_strings() {
        let text = "[{".repeat(500);
        let broad = vec!["[{}]"; 1000].join(",");
        for good in [
            format!(r#""{text}""#),
            format!(r#"["\"{text}", "{text}\\", "\\\"{text}"]"#),
            format!(r#"{{"{text}\"": 1}}"#),
            format!("[{broad}]"),
        ] {
            assert!(serde_json::from_str::<Value>(&good).is_ok(), "{good}");
            assert!(!nests_too_deep(good.as_bytes()), "{good}");
        }
        // The string ends before what nests.
        let deep = nested(DEPTH_MAX, "1");
        assert!(nests_too_deep(format!(r#"["\\", {deep}]"#).as_bytes()));
    }

    /// The neighbours and the innermost value of nested arrays and objects.
    const VALUES: &[&str] = &[
        "null",
        "[]",
        "[{}, {}]",
        r#""""#,
        r#""[[{{""#,
        r#""\"[[""#,
        r#""\\""#,
        r#""]}\\\"]}""#,
        r#"{"\"{": "}"}"#,
    ];

    proptest! {
        #[test]
        fn it_agrees_with_serde_json(
            levels in proptest::collection::vec((any::<bool>(), proptest::sample::select(VALUES)), 80..110),
            inner in proptest::sample::select(VALUES),
        ) {
            let json = levels.iter().fold(inner.to_owned(), |inside, (array, beside)| {
                if *array {
                    format!("[{beside}, {inside}, {beside}]")
                } else {
                    format!(r#"{{"[": {beside}, "\"{{": {inside}}}"#)
                }
            });
            prop_assert_eq!(nests_too_deep(json.as_bytes()), !reads(&json), "{}", json);
        }
    }
}
