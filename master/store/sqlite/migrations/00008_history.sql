-- What happened to a slave while it had a build.

-- +goose Up

CREATE INDEX events_by_slave ON events (slave, n) WHERE build_id IS NULL;
