UPDATE api_keys SET scopes = replace(replace(scopes, ',inbox:consume', ''), 'inbox:consume,', '')
WHERE scopes LIKE '%inbox:consume%';
-- A key with no other scope.
DELETE FROM api_keys WHERE scopes = 'inbox:consume';
DROP INDEX pending_received;
DROP INDEX pending_inbox_types;
DROP INDEX pending_due;
ALTER TABLE pending_deliveries DROP COLUMN event_type;
CREATE INDEX pending_due ON pending_deliveries (due_at, endpoint_id) WHERE lease_token IS NULL AND NOT ordered;
DROP INDEX endpoints_idle_inboxes;
DROP INDEX endpoints_default_inbox;
ALTER TABLE endpoints DROP COLUMN last_read_at;
ALTER TABLE endpoints DROP COLUMN default_inbox;
