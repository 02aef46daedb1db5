ALTER TABLE endpoints DROP COLUMN config;
