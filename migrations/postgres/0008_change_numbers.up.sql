-- The transaction that changed a row last, by its 64-bit number. Whoever looks for changes goes on at the
-- oldest transaction that was still running when it last looked: so nobody's clock counts, and a change
-- that commits after younger ones is not missed. A trigger, so that older versions number theirs, too.
ALTER TABLE orgs ADD COLUMN change_number bigint NOT NULL DEFAULT 0;
ALTER TABLE api_keys ADD COLUMN change_number bigint NOT NULL DEFAULT 0;
CREATE INDEX orgs_by_change_number ON orgs (change_number);
CREATE INDEX api_keys_by_change_number ON api_keys (change_number);

CREATE FUNCTION hookgate_number_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.change_number := pg_current_xact_id()::text::bigint;
    RETURN NEW;
END
$$;
CREATE TRIGGER orgs_number BEFORE INSERT OR UPDATE OF changed_at ON orgs
    FOR EACH ROW EXECUTE FUNCTION hookgate_number_change();
CREATE TRIGGER api_keys_number BEFORE INSERT OR UPDATE OF changed_at ON api_keys
    FOR EACH ROW EXECUTE FUNCTION hookgate_number_change();
