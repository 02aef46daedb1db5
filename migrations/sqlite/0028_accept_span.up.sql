-- The span of the request that posted the event, 8 bytes, of which its attempts are children; NULL unless its trace is
-- sampled.
ALTER TABLE events ADD COLUMN accept_span BLOB;
