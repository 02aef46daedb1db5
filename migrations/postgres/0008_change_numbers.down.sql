DROP TRIGGER api_keys_number ON api_keys;
DROP TRIGGER orgs_number ON orgs;
DROP FUNCTION hookgate_number_change();
DROP INDEX api_keys_by_change_number;
DROP INDEX orgs_by_change_number;
ALTER TABLE api_keys DROP COLUMN change_number;
ALTER TABLE orgs DROP COLUMN change_number;
