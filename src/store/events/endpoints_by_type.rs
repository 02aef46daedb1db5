//! An index of an organisation's endpoints by the event types that they name: of thousands of endpoints with a type
//! each, an event looks at its own.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};

use crate::domain::Endpoint;

/// The index, made when it is first asked.
#[derive(Debug, Default)]
pub struct EndpointsByType(OnceLock<TypeIndex>);

/// Positions of endpoints.
#[derive(Debug)]
struct TypeIndex {
    hasher: RandomState,
    /// Those that name every type they want, by the hashes of these.
    exact: HashMap<u64, Vec<usize>>,
    /// All others.
    others: Vec<usize>,
}

impl EndpointsByType {
    /// The endpoints among `endpoints`, always the same ones, that may want events of a type: all that do, each once.
    pub(super) fn candidates<'e>(
        &self,
        endpoints: &'e [Arc<Endpoint>],
        event_type: &str,
    ) -> impl Iterator<Item = &'e Arc<Endpoint>> {
        let index = self.0.get_or_init(|| TypeIndex::of(endpoints));
        let exact = index.exact.get(&index.hasher.hash_one(event_type));
        let positions = exact.into_iter().flatten().chain(&index.others);
        positions.filter_map(|position| endpoints.get(*position))
    }
}

impl TypeIndex {
    fn of(endpoints: &[Arc<Endpoint>]) -> Self {
        let mut index =
            Self { hasher: RandomState::new(), exact: HashMap::new(), others: Vec::new() };
        for (position, endpoint) in endpoints.iter().enumerate() {
            let Some(types) = endpoint.event_types.exact_types() else {
                index.others.push(position);
                continue;
            };
            for event_type in types {
                let of_type = index.exact.entry(index.hasher.hash_one(event_type.as_str()));
                let of_type = of_type.or_default();
                if of_type.last() != Some(&position) {
                    of_type.push(position);
                }
            }
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{EventTypeFilters, OrgId, SigningSecret, Timestamp};

    fn endpoint(filters: &[&str]) -> Arc<Endpoint> {
        let at = Timestamp::from_micros(1);
        let url = "https://example.com/".parse().unwrap();
        let secret = SigningSecret::generate().unwrap();
        let event_types = EventTypeFilters::parse(filters).unwrap();
        Arc::new(Endpoint { event_types, ..Endpoint::new(OrgId::mint(at), url, secret, at) })
    }

    #[test]
    fn endpoints_that_want_a_type_are_found_once_and_those_of_other_types_are_not() {
        let filters: [&[&str]; 6] =
            [&["a.b"], &["a.c"], &[], &["a.*"], &["a.b", "a.b", "a.c"], &["a.b", "a.*"]];
        let endpoints = filters.map(endpoint);
        let by_type = EndpointsByType::default();
        for event_type in ["a.b", "a.c", "b.c", "hookgate.test"] {
            let mut found: Vec<_> =
                by_type.candidates(&endpoints, event_type).map(|endpoint| endpoint.id).collect();
            found.sort_unstable();
            let mut once = found.clone();
            once.dedup();
            assert_eq!(found, once, "{event_type}");
            let wanting = endpoints.iter().filter(|it| it.event_types.matches(event_type));
            assert!(wanting.clone().all(|it| found.contains(&it.id)), "{event_type}");
        }
        assert_eq!(by_type.candidates(&endpoints, "a.c").count(), 5);
        assert_eq!(by_type.candidates(&endpoints, "b.c").count(), 3);
    }
}
