DROP TABLE dead_letters;
DROP TABLE delivery_attempts;
DROP TABLE deliveries;
DROP TABLE dedup_keys;
DROP TABLE events;
DROP TABLE endpoints;
DROP TABLE api_keys;
DROP TABLE orgs;
