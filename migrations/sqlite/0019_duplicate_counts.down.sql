ALTER TABLE dedup_keys DROP COLUMN conflicts;
ALTER TABLE dedup_keys DROP COLUMN duplicates;
ALTER TABLE dedup_keys DROP COLUMN content_hash;
