-- How an endpoint's owner wants its deliveries made; NULL follows the server's settings.
ALTER TABLE endpoints ADD COLUMN max_concurrency bigint;
ALTER TABLE endpoints ADD COLUMN rate_limit_per_second bigint;
ALTER TABLE endpoints ADD COLUMN retry_schedule text; -- as the setting is written; empty: no retries
ALTER TABLE endpoints ADD COLUMN ordered boolean NOT NULL DEFAULT false;
-- Since when every attempt has failed; NULL after one that succeeded.
ALTER TABLE endpoints ADD COLUMN failing_since timestamptz;
-- Which organisations have ordered endpoints: ingest asks with every batch.
CREATE INDEX endpoints_ordered ON endpoints (org_id) WHERE ordered;

-- true: attempted one at a time, in the order of event_received_at. Set when the delivery is planned.
ALTER TABLE deliveries ADD COLUMN ordered boolean NOT NULL DEFAULT false;

-- A delivery is pending as long as it has no finished_at. Which of the two a statement asks for
-- decides which of these indexes it can use: with statistics of yesterday the planner would else
-- read a million entries of the wrong one.

-- finished_at: the one due first, for the claim's first look. What waits behind an ordered delivery
-- is not due.
DROP INDEX deliveries_due;
CREATE INDEX deliveries_due ON deliveries (due_at, endpoint_id)
    WHERE finished_at IS NULL AND due_at IS NOT NULL AND NOT ordered;
-- status: endpoint by endpoint, the one due first: a claim steps from endpoint to endpoint, however much
-- waits for one of them. These are indexes of each day's partition; a day without pending
-- deliveries costs a step one look at an empty page.
DROP INDEX deliveries_pending;
CREATE INDEX deliveries_pending ON deliveries (endpoint_id, ordered, due_at) WHERE status = 'pending';
-- finished_at: the heads of the ordered endpoints.
CREATE INDEX deliveries_ordered ON deliveries (endpoint_id, event_received_at, id)
    WHERE finished_at IS NULL AND ordered;
