ALTER TABLE orgs DROP COLUMN own_event_type_rates;
