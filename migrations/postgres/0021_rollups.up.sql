-- Counts that are not in the tables below yet: a row per organisation and transaction that stored events or recorded
-- outcomes, written by that transaction. body: records one after the other, see src/store/rollups/delta.rs.
CREATE TABLE rollup_deltas (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org_id uuid   NOT NULL,
    body   bytea  NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
        toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 10000);
-- It lives for seconds: compressing it costs more than it saves.
ALTER TABLE rollup_deltas ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX rollup_deltas_by_org ON rollup_deltas (org_id, id);

-- The events of an account in an hour; account_id '' has those of the whole organisation, org_id 0 those of all.
-- hour: hours since 1970. totals, minutes: counts by type and user, and when in the hour; see event_hour.rs.
CREATE TABLE rollup_hours (
    org_id     uuid   NOT NULL,
    account_id text   COLLATE "C" NOT NULL,
    hour       bigint NOT NULL,
    events     bigint NOT NULL,
    bytes      bigint NOT NULL,
    totals     bytea  NOT NULL,
    minutes    bytea  NOT NULL,
    PRIMARY KEY (org_id, account_id, hour)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
CREATE INDEX rollup_hours_by_hour ON rollup_hours (org_id, hour);

-- active_hour: the hour of last_seen, by which accounts are listed: an index entry moves once an hour at most.
CREATE TABLE accounts (
    org_id      uuid        NOT NULL,
    account_id  text        COLLATE "C" NOT NULL,
    first_seen  timestamptz NOT NULL,
    last_seen   timestamptz NOT NULL,
    active_hour bigint      NOT NULL,
    events      bigint      NOT NULL,
    bytes       bigint      NOT NULL,
    PRIMARY KEY (org_id, account_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
CREATE INDEX accounts_by_activity ON accounts (org_id, active_hour, account_id);

CREATE TABLE event_types (
    org_id     uuid        NOT NULL,
    event_type text        COLLATE "C" NOT NULL,
    first_seen timestamptz NOT NULL,
    last_seen  timestamptz NOT NULL,
    events     bigint      NOT NULL,
    bytes      bigint      NOT NULL,
    PRIMARY KEY (org_id, event_type)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- The outcomes of an endpoint in an hour; endpoint_id 0 has those of the whole organisation. See delivery_hour.rs.
CREATE TABLE rollup_delivery_hours (
    org_id      uuid   NOT NULL,
    endpoint_id uuid   NOT NULL,
    hour        bigint NOT NULL,
    totals      bytea  NOT NULL,
    minutes     bytea  NOT NULL,
    PRIMARY KEY (org_id, endpoint_id, hour)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
CREATE INDEX rollup_delivery_hours_by_hour ON rollup_delivery_hours (org_id, hour);

-- Usage by the month in which events were accepted and outcomes recorded, as a number such as 202601.
CREATE TABLE rollup_months (
    org_id    uuid   NOT NULL,
    month     bigint NOT NULL,
    events    bigint NOT NULL,
    bytes     bigint NOT NULL,
    delivered bigint NOT NULL,
    dead      bigint NOT NULL,
    PRIMARY KEY (org_id, month)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
CREATE INDEX rollup_months_by_events ON rollup_months (month, events, org_id);
