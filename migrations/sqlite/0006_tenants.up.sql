-- What an organisation may use; NULL follows the server's setting, or has no limit.
ALTER TABLE orgs ADD COLUMN burst INTEGER;
ALTER TABLE orgs ADD COLUMN bytes_per_minute INTEGER;
ALTER TABLE orgs ADD COLUMN events_per_month INTEGER;
ALTER TABLE orgs ADD COLUMN endpoints_max INTEGER;
ALTER TABLE orgs ADD COLUMN keys_max INTEGER;
ALTER TABLE orgs ADD COLUMN payload_bytes_max INTEGER;
ALTER TABLE orgs ADD COLUMN suspended_at INTEGER;
-- The row stays when all else of an organisation is deleted, so that events of it that still wait in
-- a journal somewhere are known for what they are, and dropped.
ALTER TABLE orgs ADD COLUMN deleting_since INTEGER;
ALTER TABLE orgs ADD COLUMN deleted_rows INTEGER NOT NULL DEFAULT 0;
ALTER TABLE orgs ADD COLUMN deleted_at INTEGER;
CREATE INDEX orgs_paused ON orgs (id)
    WHERE (suspended_at IS NOT NULL OR deleting_since IS NOT NULL) AND deleted_at IS NULL;

ALTER TABLE api_keys ADD COLUMN scopes TEXT; -- NULL: all that its role may have
ALTER TABLE api_keys ADD COLUMN revoked_at INTEGER;
ALTER TABLE api_keys ADD COLUMN last_used_at INTEGER;

-- Disabled because its organisation is suspended, and by nobody else.
ALTER TABLE endpoints ADD COLUMN suspended INTEGER NOT NULL DEFAULT 0;

-- Events accepted in a calendar month, as in 202601.
CREATE TABLE org_usage (
    org_id BLOB   NOT NULL REFERENCES orgs (id),
    month  INTEGER NOT NULL,
    events INTEGER NOT NULL,
    PRIMARY KEY (org_id, month)
) STRICT, WITHOUT ROWID;

-- Who changed what. Rows are added and never changed; an organisation's go with it.
CREATE TABLE audit_log (
    id      BLOB        NOT NULL PRIMARY KEY,
    org_id  BLOB        REFERENCES orgs (id), -- NULL for what belongs to none, or outlives one
    at      INTEGER NOT NULL,
    actor   TEXT        NOT NULL,
    address TEXT,
    action  TEXT        NOT NULL,
    object  BLOB        NOT NULL,
    changes TEXT        NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX audit_log_by_time ON audit_log (at, id);
CREATE INDEX audit_log_by_org ON audit_log (org_id, at, id);
