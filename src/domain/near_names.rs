//! Near names: the one that a misspelt name most likely means.

/// Names are compared without what separates their words, and regardless of case.
const SEPARATORS: [char; 2] = ['_', '-'];
/// Longer names are not compared: comparing takes time in proportion to both lengths.
const NAME_BYTES_MAX: usize = 64;

/// The name of `known` that `name` most likely means, if one is near.
///
/// Near is a name that differs by at most a third of its letters, or whose last words are the name: `eventType` is near
/// `type`.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let written = folded(name);
    let distance = |known: &'a str| {
        let known_folded = folded(known);
        let distance = strsim::osa_distance(&written, &known_folded);
        let is_near = 3 * distance <= known_folded.len() || written.ends_with(&known_folded);
        is_near.then_some((distance, known))
    };
    known
        .into_iter()
        .filter_map(distance)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// The hint at a near name, behind a violation's message; empty if none is near.
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, known).map(|known| format!("; did you mean {known}?")).unwrap_or_default()
}

fn folded(name: &str) -> String {
    name.chars()
        .filter(|letter| !SEPARATORS.contains(letter))
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: [&str; 6] = ["type", "payload", "dedup_id", "account_id", "user_id", "timestamp"];

    #[test]
    fn misspelt_names_lead_to_the_one_that_is_meant() {
        for (name, meant) in [
            ("dedupid", "dedup_id"),
            ("dedupId", "dedup_id"),
            ("Dedupe-Id", "dedup_id"),
            ("accountId", "account_id"),
            ("event_type", "type"),
            ("typ", "type"),
            ("tpye", "type"),
            ("paylod", "payload"),
            ("time_stamp", "timestamp"),
        ] {
            assert_eq!(nearest(name, FIELDS), Some(meant), "{name}");
        }
        for name in ["", "x", "id", "data", "color", &"type".repeat(100)] {
            assert_eq!(nearest(name, FIELDS), None, "{name}");
        }
        assert_eq!(did_you_mean("typ", FIELDS), "; did you mean type?");
        assert_eq!(did_you_mean("colour", FIELDS), "");
    }
}
