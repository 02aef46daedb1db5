-- What an attempt failed at, in one word; NULL for attempts that succeeded, and for those made before.
ALTER TABLE delivery_attempts ADD COLUMN error_class text;
