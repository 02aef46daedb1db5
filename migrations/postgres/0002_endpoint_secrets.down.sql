ALTER TABLE endpoints DROP COLUMN headers;
ALTER TABLE endpoints DROP COLUMN earlier_secrets;
