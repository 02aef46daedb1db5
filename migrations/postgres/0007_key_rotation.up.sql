-- The key that this one was rotated to; NULL if it was not. No reference: an organisation's keys are
-- deleted a few at a time.
ALTER TABLE api_keys ADD COLUMN replaced_by uuid;
