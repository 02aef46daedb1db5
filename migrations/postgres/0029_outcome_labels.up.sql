-- labels: the type and account of the event of each outcome in body, one after the other; NULL where there are none. A
-- server of an earlier version neither writes nor reads them: the outcomes that it folds or records are not in the columns
-- below.
ALTER TABLE rollup_deltas ADD COLUMN labels bytea;

-- Outcomes of the account in the hour by event type, and when in the hour; see type_outcomes.rs. NULL where there are none.
ALTER TABLE rollup_hours ADD COLUMN outcome_totals bytea, ADD COLUMN outcome_minutes bytea;

-- The hour of last_seen, by which types are deleted: an index entry moves once an hour at most. The table is written anew,
-- a row per type; only folding waits.
ALTER TABLE event_types ADD COLUMN active_hour bigint
    GENERATED ALWAYS AS (CAST(floor(extract(epoch FROM last_seen AT TIME ZONE 'UTC') / 3600) AS bigint)) STORED;
CREATE INDEX event_types_by_activity ON event_types (org_id, active_hour);

-- A list of dead letters by event.
CREATE INDEX dead_letters_by_event ON dead_letters (event_id, created_at, id);
