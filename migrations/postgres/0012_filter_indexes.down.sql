DROP TRIGGER dead_letters_type ON dead_letters;
DROP FUNCTION hookgate_dead_letter_type();
DROP INDEX dead_letters_unreplayed, dead_letters_replayed, dead_letters_by_reason, dead_letters_by_type;
ALTER TABLE dead_letters DROP COLUMN event_type;
DROP INDEX deliveries_by_endpoint_status, deliveries_by_status;
DROP INDEX events_by_user, events_by_account, events_by_type;
