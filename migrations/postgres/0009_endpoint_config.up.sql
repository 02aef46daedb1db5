-- Settings of an endpoint as one JSON object, so that a new one needs no column of its own.
ALTER TABLE endpoints ADD COLUMN config text NOT NULL DEFAULT '{}';
