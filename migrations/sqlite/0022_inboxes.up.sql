-- default_inbox: the organisation's default inbox, one at most. last_read_at: when an inbox was last fetched from.
ALTER TABLE endpoints ADD COLUMN default_inbox INTEGER NOT NULL DEFAULT 0;
ALTER TABLE endpoints ADD COLUMN last_read_at INTEGER;
UPDATE endpoints SET last_read_at = created_at WHERE kind = 'pull';
CREATE UNIQUE INDEX endpoints_default_inbox ON endpoints (org_id) WHERE default_inbox AND removed_at IS NULL;
CREATE INDEX endpoints_idle_inboxes ON endpoints (last_read_at)
    WHERE kind = 'pull' AND disabled_reason IS NULL AND removed_at IS NULL;

-- The type of the event, of deliveries to inboxes only. What waits in an inbox is not due to be sent, so pending_due leaves
-- it out. attempts: of deliveries to inboxes, how often they were received; due_at: when they may be received.
ALTER TABLE pending_deliveries ADD COLUMN event_type TEXT;
DROP INDEX pending_due;
CREATE INDEX pending_due ON pending_deliveries (due_at, endpoint_id)
    WHERE lease_token IS NULL AND ordered = 0 AND event_type IS NULL;
CREATE INDEX pending_inbox_types ON pending_deliveries (endpoint_id, event_type, due_at)
    WHERE lease_token IS NULL AND event_type IS NOT NULL;
-- What consumers settle, by event.
CREATE INDEX pending_received ON pending_deliveries (endpoint_id, event_id) WHERE attempts > 0;

-- Keys with every scope keep every scope.
UPDATE api_keys SET scopes = 'events:write,events:read,inbox:consume,endpoints:manage,keys:manage'
WHERE scopes = 'events:write,events:read,endpoints:manage,keys:manage';
