DROP INDEX deliveries_ordered;
DROP INDEX deliveries_pending;
CREATE INDEX deliveries_pending ON deliveries (endpoint_id) WHERE status = 'pending';
DROP INDEX deliveries_due;
CREATE INDEX deliveries_due ON deliveries (due_at, endpoint_id)
    WHERE status = 'pending' AND due_at IS NOT NULL;
ALTER TABLE deliveries DROP COLUMN ordered;
DROP INDEX endpoints_ordered;
ALTER TABLE endpoints DROP COLUMN failing_since;
ALTER TABLE endpoints DROP COLUMN ordered;
ALTER TABLE endpoints DROP COLUMN retry_schedule;
ALTER TABLE endpoints DROP COLUMN rate_limit_per_second;
ALTER TABLE endpoints DROP COLUMN max_concurrency;
