ALTER TABLE events DROP COLUMN accept_span;
