-- Requests that name themselves by an Idempotency-Key, with the answers that their repeats get for a day.
-- status is NULL while a request runs; body is NULL for an answer that holds a secret.
CREATE TABLE idempotency_keys (
    key_id     BLOB NOT NULL,
    name       TEXT NOT NULL,
    org_id     BLOB,
    digest     BLOB NOT NULL,
    claimed_at INTEGER NOT NULL,
    status     INTEGER,
    location   TEXT,
    object     TEXT,
    body       BLOB,
    PRIMARY KEY (key_id, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (claimed_at);
CREATE INDEX idempotency_keys_by_org ON idempotency_keys (org_id) WHERE org_id IS NOT NULL;
