-- What an organisation shows its customers in the portal. allowed_origins: a JSON array. logo: an image as a data URL.
CREATE TABLE portal_settings (
    org_id          uuid PRIMARY KEY REFERENCES orgs (id) ON DELETE CASCADE,
    name            text,
    colour          text,
    logo            text,
    allowed_origins text NOT NULL,
    changed_at      timestamptz NOT NULL
);
-- The account that a session of the portal, or a link to one, is limited to.
ALTER TABLE console_sessions ADD COLUMN account_id text;
CREATE INDEX console_sessions_by_account ON console_sessions (key_id, kind, account_id, created_at)
    WHERE account_id IS NOT NULL;
-- Endpoints that receive the events of one account alone.
CREATE INDEX endpoints_by_account ON endpoints (org_id, account_id, created_at, id) WHERE account_id IS NOT NULL;
