-- What has changed of an organisation's endpoints since a version, and how many it has.
CREATE INDEX endpoints_by_version ON endpoints (org_id, version, removed_at);
