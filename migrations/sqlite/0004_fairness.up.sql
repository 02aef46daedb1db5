-- How an endpoint's owner wants its deliveries made; NULL follows the server's settings.
ALTER TABLE endpoints ADD COLUMN max_concurrency INTEGER;
ALTER TABLE endpoints ADD COLUMN rate_limit_per_second INTEGER;
ALTER TABLE endpoints ADD COLUMN retry_schedule TEXT; -- as the setting is written; empty: no retries
ALTER TABLE endpoints ADD COLUMN ordered INTEGER NOT NULL DEFAULT 0;
-- Since when every attempt has failed; NULL after one that succeeded.
ALTER TABLE endpoints ADD COLUMN failing_since INTEGER;
-- Which organisations have ordered endpoints: ingest asks with every batch.
CREATE INDEX endpoints_ordered ON endpoints (org_id) WHERE ordered = 1;

-- 1: attempted one at a time, in the order of event_received_at. Set when the delivery is planned.
ALTER TABLE deliveries ADD COLUMN ordered INTEGER NOT NULL DEFAULT 0;

-- The one due first, for the claim's first look: what waits behind an ordered delivery is not due.
DROP INDEX deliveries_due;
CREATE INDEX deliveries_due ON deliveries (due_at, endpoint_id)
    WHERE status = 'pending' AND due_at IS NOT NULL AND ordered = 0;
-- Endpoint by endpoint, the one due first: a claim steps from endpoint to endpoint, however much
-- waits for one of them.
DROP INDEX deliveries_pending;
CREATE INDEX deliveries_pending ON deliveries (endpoint_id, ordered, due_at) WHERE status = 'pending';
-- The heads of the ordered endpoints.
CREATE INDEX deliveries_ordered ON deliveries (endpoint_id, event_received_at, id)
    WHERE status = 'pending' AND ordered = 1;
