-- What an organisation shows its customers in the portal. allowed_origins: a JSON array. logo: an image as a data URL.
CREATE TABLE portal_settings (
    org_id          BLOB PRIMARY KEY REFERENCES orgs (id) ON DELETE CASCADE,
    name            TEXT,
    colour          TEXT,
    logo            TEXT,
    allowed_origins TEXT NOT NULL,
    changed_at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- The account that a session of the portal, or a link to one, is limited to.
ALTER TABLE console_sessions ADD COLUMN account_id TEXT;
CREATE INDEX console_sessions_by_account ON console_sessions (key_id, kind, account_id, created_at)
    WHERE account_id IS NOT NULL;
-- Endpoints that receive the events of one account alone.
CREATE INDEX endpoints_by_account ON endpoints (org_id, account_id, created_at, id) WHERE account_id IS NOT NULL;
