-- Endpoints that fail, of all organisations, for operators. Empty while all receivers work.
CREATE INDEX endpoints_failing ON endpoints (failing_since, id) WHERE failing_since IS NOT NULL AND removed_at IS NULL;
-- Of one organisation those that fail or are disabled, for its overview.
CREATE INDEX endpoints_failing_by_org ON endpoints (org_id, failing_since, id)
    WHERE removed_at IS NULL AND (failing_since IS NOT NULL OR disabled_reason IS NOT NULL);
