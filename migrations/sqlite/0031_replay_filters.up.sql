-- Which dead letters a replay is for, beside the columns it has: those of one event, those that were replayed or were
-- not. A replay with one of them has an action of its own, which servers of earlier versions leave alone.
ALTER TABLE replays ADD COLUMN event_id BLOB;
ALTER TABLE replays ADD COLUMN replayed INTEGER;
