-- Sessions of the portal are no sessions of the console without their account.
DELETE FROM console_sessions WHERE account_id IS NOT NULL;
DROP INDEX endpoints_by_account;
DROP INDEX console_sessions_by_account;
ALTER TABLE console_sessions DROP COLUMN account_id;
DROP TABLE portal_settings;
