-- The number of a row's last change. Whoever looks for changes goes on at the number after the last one:
-- so nobody's clock counts. The numbers are given by triggers, so that older versions number theirs, too,
-- and counted apart, so that none is given again when its row is deleted.
CREATE TABLE change_counter (
    id     INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    number INTEGER NOT NULL
) STRICT;
INSERT INTO change_counter (id, number) VALUES (1, 0);

ALTER TABLE orgs ADD COLUMN change_number INTEGER NOT NULL DEFAULT 0;
ALTER TABLE api_keys ADD COLUMN change_number INTEGER NOT NULL DEFAULT 0;
CREATE INDEX orgs_by_change_number ON orgs (change_number);
CREATE INDEX api_keys_by_change_number ON api_keys (change_number);

CREATE TRIGGER orgs_number_added AFTER INSERT ON orgs BEGIN
    UPDATE change_counter SET number = number + 1;
    UPDATE orgs SET change_number = (SELECT number FROM change_counter) WHERE id = NEW.id;
END;
CREATE TRIGGER orgs_number_changed AFTER UPDATE OF changed_at ON orgs BEGIN
    UPDATE change_counter SET number = number + 1;
    UPDATE orgs SET change_number = (SELECT number FROM change_counter) WHERE id = NEW.id;
END;
CREATE TRIGGER api_keys_number_added AFTER INSERT ON api_keys BEGIN
    UPDATE change_counter SET number = number + 1;
    UPDATE api_keys SET change_number = (SELECT number FROM change_counter) WHERE id = NEW.id;
END;
CREATE TRIGGER api_keys_number_changed AFTER UPDATE OF changed_at ON api_keys BEGIN
    UPDATE change_counter SET number = number + 1;
    UPDATE api_keys SET change_number = (SELECT number FROM change_counter) WHERE id = NEW.id;
END;
