-- Organisations whose changes somebody follows, until when.
CREATE TABLE change_streams (
    org_id BLOB    NOT NULL PRIMARY KEY REFERENCES orgs (id),
    until  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What has changed of these organisations in the last minutes: a row per transaction, with the keys of what it wrote.
-- tx is PostgreSQL's alone: one connection writes here, so seq is the order.
CREATE TABLE change_log (
    seq       INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    org_id    BLOB    NOT NULL,
    tx        INTEGER NOT NULL DEFAULT 0,
    logged_at INTEGER NOT NULL,
    items     BLOB    NOT NULL
) STRICT;
CREATE INDEX change_log_by_org ON change_log (org_id, tx, seq);
CREATE INDEX change_log_by_time ON change_log (logged_at);
