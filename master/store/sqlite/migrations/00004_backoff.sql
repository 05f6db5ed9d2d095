-- How long a back-off was to last, so that a clock that is put back by years does
-- not keep a build waiting for years.

-- +goose Up

ALTER TABLE builds ADD COLUMN backoff_us BIGINT;
CREATE INDEX builds_backoff_began ON builds (not_before_us - 2 * backoff_us - 60000000) WHERE state = 'queued' AND wait = 'back_off';
