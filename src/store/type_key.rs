//! The key by which deliveries are listed by event type: eight bytes in the row, and in its index, instead of an
//! organisation and a text.

use sha2::{Digest, Sha256};

use crate::domain::OrgId;

/// A hash of an organisation and an event type. Rows are still scoped by their organisation.
pub(super) fn type_key(org: OrgId, event_type: &str) -> i64 {
    let digest =
        Sha256::new().chain_update(org.uuid().as_bytes()).chain_update(event_type).finalize();
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    i64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    #[test]
    fn key_belongs_to_an_organisation_and_a_type() {
        let (one, other) = (OrgId::mint(Timestamp::from_micros(1)), OrgId::FIRST);
        assert_eq!(type_key(one, "a.b"), type_key(one, "a.b"));
        assert_ne!(type_key(one, "a.b"), type_key(one, "a.c"));
        assert_ne!(type_key(one, "a.b"), type_key(other, "a.b"));
        // It is stored, so it never changes.
        assert_eq!(type_key(other, "user.login"), type_key(OrgId::FIRST, "user.login"));
    }
}
