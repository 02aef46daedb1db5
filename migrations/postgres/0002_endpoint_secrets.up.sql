-- secret, earlier_secrets and headers are in clear, or encrypted where SECRETS_KEY is set.
-- earlier_secrets: those replaced that still sign beside it; headers: sent along, as a JSON object.
ALTER TABLE endpoints ADD COLUMN earlier_secrets text;
ALTER TABLE endpoints ADD COLUMN headers text;
