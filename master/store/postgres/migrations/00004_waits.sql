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

-- Columns are added at the end, so that what others have made of the view stays.
CREATE OR REPLACE VIEW v1_waits AS
SELECT w.build_id, w.number, w.cause,
    v1_time(w.from_us) AS from_at,
    v1_time(w.to_us) AS to_at,
    (w.to_us - w.from_us) / 1000000.0::double precision AS seconds,
    w.to_us - w.from_us AS duration_us,
    w.attempt, a.slave
FROM waits w LEFT JOIN attempts a ON a.build_id = w.build_id AND a.number = w.attempt;

COMMENT ON COLUMN v1_waits.attempt IS 'Number of the attempt that the build has waited for: the one that ended the waiting; NULL: it still waits, or was over before one ran.';
COMMENT ON COLUMN v1_waits.slave IS 'Slave of that attempt.';
