-- Sessions of the console and the links that open one. A session is found by the hash of its token, and ends with the
-- key that it is bound to. What it may do beside its key is in grants, a JSON object.
CREATE TABLE console_sessions (
    token_hash   bytea PRIMARY KEY,
    key_id       uuid NOT NULL REFERENCES api_keys (id) ON DELETE CASCADE,
    kind         text NOT NULL,
    grants       text NOT NULL,
    created_at   timestamptz NOT NULL,
    last_used_at timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL
);
CREATE INDEX console_sessions_by_key ON console_sessions (key_id, kind, created_at);
CREATE INDEX console_sessions_by_end ON console_sessions (expires_at);
