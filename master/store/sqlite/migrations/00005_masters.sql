-- Masters that have used the store: in a simulation several share it, and what is
-- moved from one database to another has the same tables.

-- +goose Up

-- How often a person has let go of the mass-silence brake: every master's watch hears of it.
INSERT INTO counters (name, last) VALUES ('brake_releases', 0);

CREATE TABLE masters (
    id         TEXT     NOT NULL PRIMARY KEY,
    addrs      TEXT     NOT NULL, -- told to slaves
    http       TEXT     NOT NULL,
    host       TEXT     NOT NULL,
    version    TEXT     NOT NULL,
    features   TEXT     NOT NULL,
    started_us BIGINT   NOT NULL,
    beats      BIGINT   NOT NULL,
    beat_us    BIGINT   NOT NULL, -- by the master's own clock
    ended_us   BIGINT,
    ended_why  TEXT     NOT NULL
);
CREATE INDEX masters_alive ON masters (id) WHERE ended_us IS NULL;

CREATE VIEW v1_masters AS
SELECT id, CASE WHEN ended_us IS NULL THEN 'serving' ELSE 'over' END AS state,
    addrs, http, host, version, features,
    strftime('%Y-%m-%dT%H:%M:%S', started_us / 1000000, 'unixepoch') || printf('.%03dZ', started_us / 1000 % 1000) AS started_at,
    strftime('%Y-%m-%dT%H:%M:%S', beat_us / 1000000, 'unixepoch') || printf('.%03dZ', beat_us / 1000 % 1000) AS beat_at,
    strftime('%Y-%m-%dT%H:%M:%S', ended_us / 1000000, 'unixepoch') || printf('.%03dZ', ended_us / 1000 % 1000) AS ended_at,
    nullif(ended_why, '') AS ended_why
FROM masters;
