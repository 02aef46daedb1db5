-- The caller's own trace id, as it wrote it; NULL where that is the digits of trace_id.
ALTER TABLE events ADD COLUMN trace_text text;
