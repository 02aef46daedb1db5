-- What an organisation may use; NULL follows the server's setting, or has no limit.
ALTER TABLE orgs ADD COLUMN burst bigint;
ALTER TABLE orgs ADD COLUMN bytes_per_minute bigint;
ALTER TABLE orgs ADD COLUMN events_per_month bigint;
ALTER TABLE orgs ADD COLUMN endpoints_max bigint;
ALTER TABLE orgs ADD COLUMN keys_max bigint;
ALTER TABLE orgs ADD COLUMN payload_bytes_max bigint;
ALTER TABLE orgs ADD COLUMN suspended_at timestamptz;
-- The row stays when all else of an organisation is deleted, so that events of it that still wait in
-- a journal somewhere are known for what they are, and dropped.
ALTER TABLE orgs ADD COLUMN deleting_since timestamptz;
ALTER TABLE orgs ADD COLUMN deleted_rows bigint NOT NULL DEFAULT 0;
ALTER TABLE orgs ADD COLUMN deleted_at timestamptz;
CREATE INDEX orgs_paused ON orgs (id)
    WHERE (suspended_at IS NOT NULL OR deleting_since IS NOT NULL) AND deleted_at IS NULL;

ALTER TABLE api_keys ADD COLUMN scopes text; -- NULL: all that its role may have
ALTER TABLE api_keys ADD COLUMN revoked_at timestamptz;
ALTER TABLE api_keys ADD COLUMN last_used_at timestamptz;

-- Disabled because its organisation is suspended, and by nobody else.
ALTER TABLE endpoints ADD COLUMN suspended boolean NOT NULL DEFAULT false;

-- Events accepted in a calendar month, as in 202601.
CREATE TABLE org_usage (
    org_id uuid   NOT NULL REFERENCES orgs (id),
    month  bigint NOT NULL,
    events bigint NOT NULL,
    PRIMARY KEY (org_id, month)
);

-- Who changed what. Rows are added and never changed; an organisation's go with it.
CREATE TABLE audit_log (
    id      uuid        NOT NULL PRIMARY KEY,
    org_id  uuid        REFERENCES orgs (id), -- NULL for what belongs to none, or outlives one
    at      timestamptz NOT NULL,
    actor   text        NOT NULL,
    address text,
    action  text        NOT NULL,
    object  uuid        NOT NULL,
    changes text        NOT NULL
);
CREATE INDEX audit_log_by_time ON audit_log (at, id);
CREATE INDEX audit_log_by_org ON audit_log (org_id, at, id);

-- Tells other instances that keys are to be read again. A hint: they look by themselves, too.
CREATE FUNCTION hookgate_hint() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('hookgate_changes', '');
    RETURN NULL;
END
$$;
CREATE TRIGGER orgs_hint AFTER INSERT OR UPDATE OF changed_at ON orgs
    FOR EACH STATEMENT EXECUTE FUNCTION hookgate_hint();
CREATE TRIGGER api_keys_hint AFTER INSERT OR UPDATE OF changed_at ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION hookgate_hint();
