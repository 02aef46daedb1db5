-- Counts that are not in the tables below yet: a row per organisation and transaction that stored events or recorded
-- outcomes, written by that transaction. body: records one after the other, see src/store/rollups/delta.rs.
CREATE TABLE rollup_deltas (
    id     INTEGER NOT NULL PRIMARY KEY,
    org_id BLOB    NOT NULL,
    body   BLOB    NOT NULL
) STRICT;
CREATE INDEX rollup_deltas_by_org ON rollup_deltas (org_id);

-- The events of an account in an hour; account_id '' has those of the whole organisation, org_id X'00…' those of all.
-- hour: hours since 1970. totals, minutes: counts by type and user, and when in the hour; see event_hour.rs.
CREATE TABLE rollup_hours (
    org_id     BLOB    NOT NULL,
    account_id TEXT    NOT NULL,
    hour       INTEGER NOT NULL,
    events     INTEGER NOT NULL,
    bytes      INTEGER NOT NULL,
    totals     BLOB    NOT NULL,
    minutes    BLOB    NOT NULL,
    PRIMARY KEY (org_id, account_id, hour)
) STRICT, WITHOUT ROWID;
CREATE INDEX rollup_hours_by_hour ON rollup_hours (org_id, hour);

-- active_hour: the hour of last_seen, by which accounts are listed: an index entry moves once an hour at most.
CREATE TABLE accounts (
    org_id      BLOB    NOT NULL,
    account_id  TEXT    NOT NULL,
    first_seen  INTEGER NOT NULL,
    last_seen   INTEGER NOT NULL,
    active_hour INTEGER NOT NULL,
    events      INTEGER NOT NULL,
    bytes       INTEGER NOT NULL,
    PRIMARY KEY (org_id, account_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX accounts_by_activity ON accounts (org_id, active_hour, account_id);

CREATE TABLE event_types (
    org_id     BLOB    NOT NULL,
    event_type TEXT    NOT NULL,
    first_seen INTEGER NOT NULL,
    last_seen  INTEGER NOT NULL,
    events     INTEGER NOT NULL,
    bytes      INTEGER NOT NULL,
    PRIMARY KEY (org_id, event_type)
) STRICT, WITHOUT ROWID;

-- The outcomes of an endpoint in an hour; endpoint_id X'00…' has those of the whole organisation. See delivery_hour.rs.
CREATE TABLE rollup_delivery_hours (
    org_id      BLOB    NOT NULL,
    endpoint_id BLOB    NOT NULL,
    hour        INTEGER NOT NULL,
    totals      BLOB    NOT NULL,
    minutes     BLOB    NOT NULL,
    PRIMARY KEY (org_id, endpoint_id, hour)
) STRICT, WITHOUT ROWID;
CREATE INDEX rollup_delivery_hours_by_hour ON rollup_delivery_hours (org_id, hour);

-- Usage by the month in which events were accepted and outcomes recorded, as a number such as 202601.
CREATE TABLE rollup_months (
    org_id    BLOB    NOT NULL,
    month     INTEGER NOT NULL,
    events    INTEGER NOT NULL,
    bytes     INTEGER NOT NULL,
    delivered INTEGER NOT NULL,
    dead      INTEGER NOT NULL,
    PRIMARY KEY (org_id, month)
) STRICT, WITHOUT ROWID;
CREATE INDEX rollup_months_by_events ON rollup_months (month, events, org_id);
