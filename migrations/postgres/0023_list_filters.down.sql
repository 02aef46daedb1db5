DELETE FROM replays WHERE action <> 'replay';
ALTER TABLE replays DROP COLUMN action, DROP COLUMN error_class, DROP COLUMN status_code;
DROP INDEX dead_letters_by_error_class, dead_letters_by_status_code;
ALTER TABLE dead_letters DROP COLUMN error_class, DROP COLUMN status_code, DROP COLUMN attempts;
DROP INDEX pending_by_type, pending_by_error_class, pending_by_status_code;
DROP INDEX deliveries_by_type, deliveries_by_error_class, deliveries_by_status_code;
ALTER TABLE deliveries DROP COLUMN type_key;
ALTER TABLE pending_deliveries
    DROP COLUMN type_key, DROP COLUMN error, DROP COLUMN error_class, DROP COLUMN status_code;
DROP INDEX events_by_trace, events_by_trace_text;
