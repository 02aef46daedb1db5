//! The range of event types with a prefix.

/// The first text after all those with this prefix, byte by byte. A prefix ends in an ASCII separator.
pub(super) fn after_prefix(prefix: &str) -> String {
    let mut end = prefix.to_owned();
    if let Some(separator) = end.pop() {
        end.extend(char::from_u32(u32::from(separator) + 1));
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_ends_before_the_next_separator() {
        for (prefix, end) in [("user.", "user/"), ("user:", "user;"), ("user/", "user0")] {
            assert_eq!(after_prefix(prefix), end);
        }
    }
}
