-- As event_type_rates, set by the organisation itself; the lower of the two holds.
ALTER TABLE orgs ADD COLUMN own_event_type_rates TEXT;
