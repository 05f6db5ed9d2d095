-- Builds that a slave brought back to a store that was restored from an older copy.

-- +goose Up

ALTER TABLE builds ADD COLUMN recovered TEXT NOT NULL DEFAULT '';

DROP VIEW v1_builds;
CREATE VIEW v1_builds AS
SELECT id, n AS number, name, state, reason, submitter,
    strftime('%Y-%m-%dT%H:%M:%S', created_us / 1000000, 'unixepoch') || printf('.%03dZ', created_us / 1000 % 1000) AS created_at,
    strftime('%Y-%m-%dT%H:%M:%S', queued_us / 1000000, 'unixepoch') || printf('.%03dZ', queued_us / 1000 % 1000) AS queued_at,
    strftime('%Y-%m-%dT%H:%M:%S', not_before_us / 1000000, 'unixepoch') || printf('.%03dZ', not_before_us / 1000 % 1000) AS not_before,
    strftime('%Y-%m-%dT%H:%M:%S', started_us / 1000000, 'unixepoch') || printf('.%03dZ', started_us / 1000 % 1000) AS started_at,
    strftime('%Y-%m-%dT%H:%M:%S', finished_us / 1000000, 'unixepoch') || printf('.%03dZ', finished_us / 1000 % 1000) AS finished_at,
    transient_failures, priority,
    nullif(cause, '') AS cause, nullif(detail, '') AS detail, nullif(wait, '') AS wait,
    granted, lost_by, spec, nullif(recovered, '') AS recovered
FROM builds;
