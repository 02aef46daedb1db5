DROP INDEX dead_letters_by_event;
DROP INDEX event_types_by_activity;
ALTER TABLE event_types DROP COLUMN active_hour;
ALTER TABLE rollup_hours DROP COLUMN outcome_minutes;
ALTER TABLE rollup_hours DROP COLUMN outcome_totals;
ALTER TABLE rollup_deltas DROP COLUMN labels;
