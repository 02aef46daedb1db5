-- NULL: as many as ten times its event limit.
ALTER TABLE orgs ADD COLUMN deliveries_per_minute bigint;
-- Events per minute by event type, as one JSON object; NULL for none.
ALTER TABLE orgs ADD COLUMN event_type_rates text;
-- NULL: as many as its organisation may post.
ALTER TABLE api_keys ADD COLUMN rate_limit_per_minute bigint;
