DROP TRIGGER api_keys_number_changed;
DROP TRIGGER api_keys_number_added;
DROP TRIGGER orgs_number_changed;
DROP TRIGGER orgs_number_added;
DROP INDEX api_keys_by_change_number;
DROP INDEX orgs_by_change_number;
ALTER TABLE api_keys DROP COLUMN change_number;
ALTER TABLE orgs DROP COLUMN change_number;
DROP TABLE change_counter;
