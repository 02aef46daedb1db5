-- A hash of the content of the event that holds the key, and how many events were dropped in its favour: in all, and
-- with another content. NULL where it was written before this migration, or nothing was dropped.
ALTER TABLE dedup_keys ADD COLUMN content_hash INTEGER;
ALTER TABLE dedup_keys ADD COLUMN duplicates INTEGER;
ALTER TABLE dedup_keys ADD COLUMN conflicts INTEGER;
