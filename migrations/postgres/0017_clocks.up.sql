-- The order of ordered deliveries is that in which they are stored, by number; 0 goes first: redeliveries.
CREATE SEQUENCE pending_position;
ALTER TABLE pending_deliveries ADD COLUMN position bigint NOT NULL DEFAULT 0;
ALTER SEQUENCE pending_position OWNED BY pending_deliveries.position;
UPDATE pending_deliveries d SET position = n.position
FROM (SELECT org_id, created_at, id, row_number() OVER (ORDER BY event_received_at, id) AS position
      FROM pending_deliveries WHERE ordered) n
WHERE d.org_id = n.org_id AND d.created_at = n.created_at AND d.id = n.id;
SELECT setval('pending_position', greatest((SELECT max(position) FROM pending_deliveries), 1));
DROP INDEX pending_ordered;
CREATE INDEX pending_ordered ON pending_deliveries (endpoint_id, position, event_received_at, id) WHERE ordered;

-- The schedule time, by which deliveries are due and leases lapse, in microseconds: how far it is ahead of the
-- database server's clock, and its latest value. Clocks that are set back do not set it back.
CREATE TABLE store_clock (
    id     smallint PRIMARY KEY CHECK (id = 1),
    ahead  bigint NOT NULL,
    latest bigint NOT NULL
);
INSERT INTO store_clock (id, ahead, latest) VALUES (1, 0, 0);
