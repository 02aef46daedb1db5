-- Organisations whose changes somebody follows, until when.
CREATE TABLE change_streams (
    org_id uuid PRIMARY KEY REFERENCES orgs (id),
    until  timestamptz NOT NULL
) WITH (fillfactor = 50);

-- What has changed of these organisations in the last minutes: a row per transaction, with the keys of what it wrote.
-- Rows are read in the order (tx, seq), those of transactions that began after every unfinished one left out, so that
-- none is committed behind a row that was read.
CREATE TABLE change_log (
    seq       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org_id    uuid NOT NULL,
    tx        bigint NOT NULL DEFAULT (pg_current_xact_id()::text::bigint),
    logged_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    items     bytea NOT NULL
);
CREATE INDEX change_log_by_org ON change_log (org_id, tx, seq);
CREATE INDEX change_log_by_time ON change_log (logged_at);
