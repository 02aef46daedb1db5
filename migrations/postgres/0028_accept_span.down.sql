ALTER TABLE held_events DROP COLUMN accept_span;
ALTER TABLE events DROP COLUMN accept_span;
