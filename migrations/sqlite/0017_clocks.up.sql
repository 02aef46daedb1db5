-- The order of ordered deliveries is that in which they are stored, by number; 0 goes first: redeliveries.
ALTER TABLE pending_deliveries ADD COLUMN position INTEGER NOT NULL DEFAULT 0;
UPDATE pending_deliveries SET position = n.position
FROM (SELECT org_id, created_at, id, row_number() OVER (ORDER BY event_received_at, id) AS position
      FROM pending_deliveries WHERE ordered = 1) n
WHERE pending_deliveries.org_id = n.org_id AND pending_deliveries.created_at = n.created_at
  AND pending_deliveries.id = n.id;
DROP INDEX pending_ordered;
CREATE INDEX pending_ordered ON pending_deliveries (endpoint_id, position, event_received_at, id) WHERE ordered = 1;
CREATE INDEX pending_positions ON pending_deliveries (position) WHERE ordered = 1;

-- The schedule time, by which deliveries are due and leases lapse, in microseconds: how far it is ahead of the
-- server's clock, and its latest value. Clocks that are set back do not set it back.
CREATE TABLE store_clock (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    ahead  INTEGER NOT NULL,
    latest INTEGER NOT NULL
) STRICT;
INSERT INTO store_clock (id, ahead, latest) VALUES (1, 0, 0);
