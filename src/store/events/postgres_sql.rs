//! The statements that persist a pass of a batch in PostgreSQL.

/// The organisations in `$11`, in key order, held until the batch is stored, so that a deletion begins before it
/// or after it. `$12` has the versions of their endpoints that the batch was planned with, NULL where that does
/// not matter. An organisation is stale, too, if one of its erasures may cover an event of the batch.
macro_rules! held {
    () => {
        "held AS (
             SELECT o.id, o.deleting_since IS NOT NULL AS deleting,
                    o.deleting_since IS NULL AND v.version IS NOT NULL
                        AND (o.endpoints_version <> v.version
                             OR o.erased_until IS NOT NULL AND EXISTS (
                                 SELECT 1 FROM unnest($2::uuid[], $9::timestamptz[])
                                     AS e (org_id, received_at)
                                 WHERE e.org_id = o.id AND e.received_at <= o.erased_until
                             )) AS stale
             FROM unnest($11::uuid[], $12::bigint[]) AS v (id, version)
             CROSS JOIN LATERAL (
                 SELECT id, deleting_since, endpoints_version, erased_until FROM orgs
                 WHERE id = v.id
                 FOR KEY SHARE
             ) o
         )"
    };
}

/// Inserts events of organisations that stay, given as `event_arguments`; none if an organisation is stale.
macro_rules! insert_events {
    () => {
        "INSERT INTO events (id, org_id, event_type, payload, dedup_id, account_id, user_id,
                             occurred_at, received_at, trace_id, trace_text, accept_span)
         SELECT e.*
         FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bytea[], $5::text[], $6::text[],
                     $7::text[], $8::timestamptz[], $9::timestamptz[], $10::uuid[], $13::text[],
                     $14::bytea[])
             AS e (id, org_id, event_type, payload, dedup_id, account_id, user_id, occurred_at,
                   received_at, trace_id, trace_text, accept_span)
         WHERE NOT EXISTS (SELECT 1 FROM held WHERE stale)
           AND e.org_id NOT IN (SELECT id FROM held WHERE deleting)"
    };
}

/// The one statement of a pass, with or without a clause for events that are there already.
macro_rules! write_pass {
    ($on_conflict:literal) => {
        concat!(
            "WITH ",
            held!(),
            ", taken AS (
                 INSERT INTO dedup_keys (org_id, event_id, received_at, content_hash)
                 SELECT org_id, id, received_at, content_hash
                 FROM unnest($1::uuid[], $2::uuid[], $5::text[], $9::timestamptz[], $28::bigint[])
                     AS e (id, org_id, dedup_id, received_at, content_hash)
                 WHERE dedup_id IS NOT NULL
                   AND NOT EXISTS (SELECT 1 FROM held WHERE stale)
                   AND org_id NOT IN (SELECT id FROM held WHERE deleting)
                 ON CONFLICT (org_id, event_id) DO UPDATE
                     SET received_at = greatest(dedup_keys.received_at, excluded.received_at),
                         content_hash = CASE WHEN dedup_keys.received_at > excluded.received_at
                             THEN dedup_keys.content_hash ELSE excluded.content_hash END,
                         duplicates = CASE WHEN dedup_keys.received_at >= excluded.received_at
                             THEN dedup_keys.duplicates END,
                         conflicts = CASE WHEN dedup_keys.received_at >= excluded.received_at
                             THEN dedup_keys.conflicts END
                     WHERE dedup_keys.received_at = excluded.received_at
                        OR dedup_keys.received_at <= excluded.received_at - $15::interval
                        OR dedup_keys.received_at >= excluded.received_at + $15::interval
                 RETURNING event_id
             ), stored AS (
                 ",
            insert_events!(),
            " AND (e.dedup_id IS NULL OR e.id IN (SELECT event_id FROM taken))
",
            $on_conflict,
            "
                 RETURNING id
             ), counted AS (
                 INSERT INTO rollup_deltas (org_id, body)
                 SELECT e.org_id, string_agg(e.record, ''::bytea)
                 FROM unnest($1::uuid[], $2::uuid[], $29::bytea[]) AS e (id, org_id, record)
                 WHERE e.id IN (SELECT id FROM stored) OR e.id IS NULL
                 GROUP BY e.org_id
             ), planned AS (
                 INSERT INTO pending_deliveries
                     (org_id, created_at, id, event_id, event_received_at, endpoint_id, ordered,
                      payload_bytes, due_at, lease_token, position, type_key, event_type)
                 SELECT c.org_id, c.created_at, c.id, c.event_id, c.event_received_at,
                        c.endpoint_id, c.ordered, c.payload_bytes,
                        CASE WHEN c.leased THEN $26::timestamptz ELSE $25::timestamptz END,
                        CASE WHEN c.leased THEN $27::uuid END,
                        CASE WHEN c.ordered THEN nextval('pending_position') ELSE 0 END,
                        c.type_key, c.event_type
                 FROM unnest($16::uuid[], $17::timestamptz[], $18::uuid[], $19::uuid[],
                             $20::timestamptz[], $21::uuid[], $22::boolean[], $23::bigint[],
                             $24::boolean[], $30::bigint[], $31::text[])
                     AS c (org_id, created_at, id, event_id, event_received_at, endpoint_id,
                           ordered, payload_bytes, leased, type_key, event_type)
                 WHERE c.event_id IN (SELECT id FROM stored) OR c.event_id IS NULL
                 RETURNING id, lease_token
             )
             SELECT (SELECT count(*) FROM stored),
                    (SELECT count(*) FROM planned),
                    (SELECT count(*) FROM unnest($2::uuid[]) AS e (org_id)
                     WHERE e.org_id IN (SELECT id FROM held WHERE deleting)),
                    ARRAY(SELECT id FROM planned WHERE lease_token IS NOT NULL),
                    EXISTS (SELECT 1 FROM held WHERE stale)"
        )
    };
}

/// Stores events without deliveries and without dedup ids, given as `event_arguments`, and their
/// deltas, in `$15` and `$16`. An event that is there already fails it.
pub(super) const INSERT: &str = concat!(
    "WITH ",
    held!(),
    ", counted AS (
         INSERT INTO rollup_deltas (org_id, body)
         SELECT d.org_id, d.body FROM unnest($15::uuid[], $16::bytea[]) AS d (org_id, body)
         WHERE NOT EXISTS (SELECT 1 FROM held WHERE stale)
           AND d.org_id NOT IN (SELECT id FROM held WHERE deleting)
     ) ",
    insert_events!()
);

/// Takes dedup keys, stores the events that hold theirs, the deltas of those that are new, whose records are in `$29`,
/// and their deliveries. An event that is there already fails it.
///
/// The ORs, never true, keep PostgreSQL from turning each IN, a look-up in a hash table, into a join row by row.
pub(super) const WRITE_NEW: &str = write_pass!("");

/// The same for events that may be there already: these are passed over.
pub(super) const WRITE: &str = write_pass!("ON CONFLICT DO NOTHING");
