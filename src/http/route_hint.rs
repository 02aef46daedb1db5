//! The path that a request to no route most likely means: without its final slashes, or under `/api`.

/// Longer paths get no hint: they are repeated to the caller.
const PATH_BYTES_MAX: usize = 200;

/// The path of a route that `path` becomes, if any.
pub(super) fn meant(routes: &[&str], path: &str) -> Option<String> {
    if path.len() > PATH_BYTES_MAX {
        return None;
    }
    let trimmed = path.trim_end_matches('/');
    let mut candidates = [trimmed.to_owned(), format!("/api{trimmed}")].into_iter();
    candidates.find(|candidate| routes.iter().any(|route| fits(route, candidate)))
}

/// Whether a path has the form of a route's, as `/api/events/7` has that of `/api/events/{id}`.
fn fits(route: &str, path: &str) -> bool {
    let (mut expected, mut found) = (route.split('/'), path.split('/'));
    loop {
        match (expected.next(), found.next()) {
            (None, None) => return true,
            (Some(expected), Some(found))
                if expected == found || expected.starts_with('{') && !found.is_empty() => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_without_api_or_with_a_final_slash_leads_to_the_route() {
        let routes = ["/api/events", "/api/events/{id}", "/api/v1/events", "/health/live"];
        for (path, expected) in [
            ("/api/events/", "/api/events"),
            ("/events", "/api/events"),
            ("/events//", "/api/events"),
            ("/events/7/", "/api/events/7"),
            ("/v1/events", "/api/v1/events"),
            ("/health/live/", "/health/live"),
        ] {
            assert_eq!(meant(&routes, path).as_deref(), Some(expected), "{path}");
        }
        let long = format!("/events/{}", "7".repeat(PATH_BYTES_MAX));
        for path in ["/", "", "/eventz", "/api/eventz", "/api/events/7/8", "/api", &long] {
            assert_eq!(meant(&routes, path), None, "{path}");
        }
    }
}
