DROP TABLE erasure_tombstones;
DROP TABLE erasures;
DROP INDEX api_keys_by_expiry;
DROP TABLE payloads_in_use;
DROP TABLE payload_removals;
-- The version before knows no empty payload.
UPDATE events SET payload = x'6e756c6c' WHERE octet_length(payload) = 0;
ALTER TABLE orgs DROP COLUMN erased_until;
ALTER TABLE orgs DROP COLUMN payload_retention_days;
ALTER TABLE orgs DROP COLUMN retention_days;
