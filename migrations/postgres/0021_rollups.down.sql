DROP TABLE rollup_months;
DROP TABLE rollup_delivery_hours;
DROP TABLE event_types;
DROP TABLE accounts;
DROP TABLE rollup_hours;
DROP TABLE rollup_deltas;
