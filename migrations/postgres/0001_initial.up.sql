CREATE TABLE orgs (
    id                    uuid        NOT NULL PRIMARY KEY,
    name                  text        NOT NULL,
    rate_limit_per_minute bigint,
    created_at            timestamptz NOT NULL,
    changed_at            timestamptz NOT NULL
);
CREATE INDEX orgs_by_time ON orgs (created_at, id);
CREATE INDEX orgs_by_change ON orgs (changed_at);

CREATE TABLE api_keys (
    id         uuid        NOT NULL PRIMARY KEY,
    org_id     uuid        REFERENCES orgs (id), -- NULL for an operator's
    name       text        NOT NULL,
    hash       text        NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    changed_at timestamptz NOT NULL
);
CREATE INDEX api_keys_by_time ON api_keys (created_at, id);
CREATE INDEX api_keys_by_org ON api_keys (org_id, created_at, id);
CREATE INDEX api_keys_by_change ON api_keys (changed_at);

CREATE TABLE endpoints (
    id              uuid        NOT NULL PRIMARY KEY,
    org_id          uuid        NOT NULL REFERENCES orgs (id),
    url             text        NOT NULL,
    event_types     text        NOT NULL,
    description     text,
    secret          text        NOT NULL,
    disabled_reason text,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL
);
CREATE INDEX endpoints_by_org ON endpoints (org_id, created_at, id);

-- events, deliveries and delivery_attempts have a partition a day of the event's received_at, so
-- that old days are dropped as files and indexes of the present stay small. The default partition
-- takes what no day was made for.
CREATE TABLE events (
    id          uuid        NOT NULL,
    org_id      uuid        NOT NULL,
    event_type  text        NOT NULL,
    payload     bytea       NOT NULL,
    dedup_id    text,
    account_id  text,
    user_id     text,
    occurred_at timestamptz,
    received_at timestamptz NOT NULL,
    trace_id    uuid        NOT NULL,
    PRIMARY KEY (id, received_at)
) PARTITION BY RANGE (received_at);
CREATE TABLE events_default PARTITION OF events DEFAULT;
CREATE INDEX events_by_org ON events (org_id, received_at, id);

-- Which event holds a dedup id: event_id is a hash of the organisation and the dedup id.
CREATE TABLE dedup_keys (
    org_id      uuid        NOT NULL,
    event_id    uuid        NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, event_id)
);
CREATE INDEX dedup_keys_by_time ON dedup_keys (received_at);

-- due_at: when the row may next be claimed. The end of the lease while lease_token is set, NULL
-- while the endpoint is disabled and once the status is final.
CREATE TABLE deliveries (
    id                uuid        NOT NULL,
    org_id            uuid        NOT NULL,
    event_id          uuid        NOT NULL,
    event_received_at timestamptz NOT NULL,
    endpoint_id       uuid        NOT NULL,
    status            text        NOT NULL DEFAULT 'pending',
    attempts          bigint      NOT NULL DEFAULT 0,
    due_at            timestamptz,
    lease_token       uuid,
    created_at        timestamptz NOT NULL,
    finished_at       timestamptz,
    PRIMARY KEY (id, event_received_at)
) PARTITION BY RANGE (event_received_at);
CREATE TABLE deliveries_default PARTITION OF deliveries DEFAULT;
CREATE INDEX deliveries_by_org ON deliveries (org_id, created_at, id);
CREATE INDEX deliveries_by_event ON deliveries (event_id);
CREATE INDEX deliveries_by_endpoint ON deliveries (endpoint_id, created_at, id);
CREATE INDEX deliveries_due ON deliveries (due_at, endpoint_id)
    WHERE status = 'pending' AND due_at IS NOT NULL;
CREATE INDEX deliveries_pending ON deliveries (endpoint_id) WHERE status = 'pending';

CREATE TABLE delivery_attempts (
    delivery_id       uuid        NOT NULL,
    number            bigint      NOT NULL,
    org_id            uuid        NOT NULL,
    event_received_at timestamptz NOT NULL,
    started_at        timestamptz NOT NULL,
    duration_ms       bigint      NOT NULL,
    status_code       bigint,
    error             text,
    response_excerpt  text,
    PRIMARY KEY (delivery_id, number, event_received_at)
) PARTITION BY RANGE (event_received_at);
CREATE TABLE delivery_attempts_default PARTITION OF delivery_attempts DEFAULT;

-- id: the delivery's, or the event's where the store refused the event; record is then the event
-- as the journal wrote it.
CREATE TABLE dead_letters (
    id          uuid        NOT NULL PRIMARY KEY,
    org_id      uuid        NOT NULL,
    event_id    uuid        NOT NULL,
    delivery_id uuid,
    endpoint_id uuid,
    reason      text        NOT NULL,
    detail      text,
    record      bytea,
    created_at  timestamptz NOT NULL
);
CREATE INDEX dead_letters_by_org ON dead_letters (org_id, created_at, id);
