-- Which attempt an interval of the wait ledger belongs to: the one that ended the waiting.

-- +goose Up

ALTER TABLE waits ADD COLUMN attempt INTEGER; -- number; NULL: it still waits, or was over before one ran

-- What is there already: the attempt by which the build ran first after the interval.
UPDATE waits SET attempt = (
    SELECT a.number FROM events e JOIN attempts a ON a.id = e.attempt_id
    WHERE e.build_id = waits.build_id AND e.topic = 'build.running' AND e.at_us >= waits.to_us
    ORDER BY e.id LIMIT 1
) WHERE to_us IS NOT NULL;

CREATE INDEX waits_ended ON waits (to_us) WHERE attempt IS NOT NULL;

DROP VIEW v1_waits;
CREATE VIEW v1_waits AS
SELECT w.build_id, w.number, w.cause,
    strftime('%Y-%m-%dT%H:%M:%S', w.from_us / 1000000, 'unixepoch') || printf('.%03dZ', w.from_us / 1000 % 1000) AS from_at,
    strftime('%Y-%m-%dT%H:%M:%S', w.to_us / 1000000, 'unixepoch') || printf('.%03dZ', w.to_us / 1000 % 1000) AS to_at,
    (w.to_us - w.from_us) / 1000000.0 AS seconds,
    w.to_us - w.from_us AS duration_us,
    w.attempt, a.slave
FROM waits w LEFT JOIN attempts a ON a.build_id = w.build_id AND a.number = w.attempt;
