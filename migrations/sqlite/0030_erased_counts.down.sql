ALTER TABLE erasures DROP COLUMN counts_erased;
