-- Endpoints that fail, of all organisations, for operators. Empty while all receivers work.
CREATE INDEX endpoints_failing ON endpoints (failing_since, id) WHERE failing_since IS NOT NULL AND removed_at IS NULL;
