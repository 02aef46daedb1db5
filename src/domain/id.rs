//! One id type per entity, all UUIDs, so that no id can stand where another belongs.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Timestamp;

macro_rules! entity_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        #[schemars(inline)]
        pub struct $name(Uuid);

        impl $name {
            /// Mints an id that sorts by `at` (UUIDv7, RFC 9562 section 5.7).
            pub fn mint(at: Timestamp) -> Self {
                Self(uuid_v7(at))
            }

            /// Wraps an id read from the store.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The plain UUID, for the store's columns.
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

entity_id!(
    /// An organisation (tenant): the owner of keys, endpoints, events and deliveries.
    OrgId
);
entity_id!(
    /// The public part of an API key: safe to log, and what the key is looked up by.
    ApiKeyId
);
entity_id!(
    /// An endpoint: a URL that receives webhooks.
    EndpointId
);
entity_id!(
    /// An accepted event; also the `webhook-id` of its deliveries.
    EventId
);
entity_id!(
    /// A delivery of one event to one endpoint.
    DeliveryId
);
entity_id!(
    /// A replay of dead letters.
    ReplayId
);
entity_id!(
    /// An erasure of an event, or of an account's events.
    ErasureId
);
entity_id!(
    /// A dead letter: the id of its delivery, or of its event if there is no delivery.
    DeadLetterId
);

impl OrgId {
    /// The organisation created at the first start. A constant, so that only one of several servers that start
    /// on one empty store can create it.
    pub const FIRST: Self = Self(Uuid::from_u128(0x7000_8000_0000_0000_0001));
}

impl DeliveryId {
    /// When the delivery was created, to the millisecond: it is in the id, so an id tells the whole key of a row.
    pub fn created_at(self) -> Timestamp {
        millis_of(self.0)
    }
}

impl EventId {
    /// When the id was minted, to the millisecond; `None` for one that does not tell (it is no UUIDv7).
    pub fn minted_at(self) -> Option<Timestamp> {
        (self.0.get_version_num() == 7).then(|| millis_of(self.0))
    }

    /// The id of the event with this deduplication id: the same on every server and at every retry, without a
    /// look-up (UUIDv8, RFC 9562 section 5.8, from the SHA-256 of both).
    pub fn from_dedup_id(org: OrgId, dedup_id: &str) -> Self {
        let digest = Sha256::new()
            .chain_update(b"hookgate dedup\0")
            .chain_update(org.0.as_bytes())
            .chain_update(dedup_id.as_bytes())
            .finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(Uuid::new_v8(bytes))
    }
}

/// The time at the head of a UUIDv7.
fn millis_of(uuid: Uuid) -> Timestamp {
    let millis = i64::try_from(uuid.as_u128() >> 80).unwrap_or(0);
    Timestamp::from_micros(millis * 1_000)
}

fn uuid_v7(at: Timestamp) -> Uuid {
    let micros = at.micros().max(0).unsigned_abs();
    let (seconds, nanos) = (micros / 1_000_000, (micros % 1_000_000) * 1_000);
    let nanos = u32::try_from(nanos).unwrap_or(0);
    Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_minted_later_sort_later() {
        let early = EventId::mint(Timestamp::from_micros(1_700_000_000_000_000));
        let late = EventId::mint(Timestamp::from_micros(1_700_000_000_002_000));
        assert!(early < late);
    }

    #[test]
    fn delivery_id_tells_when_the_delivery_was_created() {
        let at = Timestamp::from_micros(1_700_000_000_123_456);
        assert_eq!(DeliveryId::mint(at).created_at(), at.floor_ms());
    }

    #[test]
    fn event_id_tells_when_it_was_minted_unless_a_dedup_id_gave_it() {
        let at = Timestamp::from_micros(1_700_000_000_123_456);
        assert_eq!(EventId::mint(at).minted_at(), Some(at.floor_ms()));
        assert_eq!(EventId::from_dedup_id(OrgId::mint(at), "invoice-1").minted_at(), None);
    }

    #[test]
    fn dedup_id_of_an_org_always_gives_the_same_event_id() {
        let org = OrgId::mint(Timestamp::from_micros(1));
        let other = OrgId::mint(Timestamp::from_micros(1));
        let id = EventId::from_dedup_id(org, "invoice-1");
        assert_eq!(id, EventId::from_dedup_id(org, "invoice-1"));
        assert_ne!(id, EventId::from_dedup_id(org, "invoice-2"));
        assert_ne!(id, EventId::from_dedup_id(other, "invoice-1"));
        assert_eq!(id.uuid().get_version_num(), 8);
    }
}
