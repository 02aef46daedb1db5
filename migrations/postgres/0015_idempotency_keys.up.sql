-- Requests that name themselves by an Idempotency-Key, with the answers that their repeats get for a day.
-- status is NULL while a request runs; body is NULL for an answer that holds a secret.
CREATE TABLE idempotency_keys (
    key_id     uuid NOT NULL,
    name       text COLLATE "C" NOT NULL,
    org_id     uuid,
    digest     bytea NOT NULL,
    claimed_at timestamptz NOT NULL,
    status     bigint,
    location   text,
    object     text,
    body       bytea,
    PRIMARY KEY (key_id, name)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (claimed_at);
CREATE INDEX idempotency_keys_by_org ON idempotency_keys (org_id) WHERE org_id IS NOT NULL;
