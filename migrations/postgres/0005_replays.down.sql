DROP TABLE replays;
DROP INDEX dead_letters_by_endpoint;
ALTER TABLE dead_letters DROP COLUMN replayed_at;
ALTER TABLE deliveries DROP COLUMN replay_of;
