ALTER TABLE api_keys DROP COLUMN rate_limit_per_minute;
ALTER TABLE orgs DROP COLUMN event_type_rates;
ALTER TABLE orgs DROP COLUMN deliveries_per_minute;
