ALTER TABLE delivery_attempts DROP COLUMN error_class;
