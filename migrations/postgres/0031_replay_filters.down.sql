DELETE FROM replays WHERE event_id IS NOT NULL OR replayed IS NOT NULL;
ALTER TABLE replays DROP COLUMN event_id, DROP COLUMN replayed;
