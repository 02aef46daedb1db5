DROP TABLE store_clock;
DROP INDEX pending_positions;
DROP INDEX pending_ordered;
ALTER TABLE pending_deliveries DROP COLUMN position;
CREATE INDEX pending_ordered ON pending_deliveries (endpoint_id, event_received_at, id) WHERE ordered = 1;
