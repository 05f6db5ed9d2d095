-- Base tables of a holdfast store. PostgreSQL has the same tables, column names
-- and views; only BLOB is BYTEA there.
--
-- Times are microseconds since the Unix epoch, UTC (*_us); NULL: not yet.
-- Ids are ULIDs, TEXT of 26 characters. Booleans are SMALLINT 0/1. Sequence
-- numbers and epochs are BIGINT; CRCs are BIGINT holding 32 unsigned bits.
-- Lists and maps are JSON text.

-- +goose Up

CREATE TABLE store_meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

-- Numbers that were given; they never go back, whatever is pruned.
CREATE TABLE counters (
    name TEXT   NOT NULL PRIMARY KEY,
    last BIGINT NOT NULL
);
INSERT INTO counters (name, last) VALUES ('builds', 0), ('events', 0);

CREATE TABLE builds (
    id                 TEXT     NOT NULL PRIMARY KEY,
    n                  BIGINT   NOT NULL UNIQUE, -- order of submission
    name               TEXT     NOT NULL,
    spec               TEXT     NOT NULL,
    policy             TEXT     NOT NULL,
    priority           INTEGER  NOT NULL,
    requires           TEXT     NOT NULL, -- of policy; keys are sorted
    reason             TEXT     NOT NULL,
    submitter          TEXT     NOT NULL,
    state              TEXT     NOT NULL,
    cause              TEXT     NOT NULL,
    detail             TEXT     NOT NULL,
    wait               TEXT     NOT NULL,
    created_us         BIGINT   NOT NULL,
    queued_us          BIGINT,
    not_before_us      BIGINT,
    started_us         BIGINT,
    finished_us        BIGINT,
    transient_failures INTEGER  NOT NULL,
    granted            INTEGER  NOT NULL,
    lost_by            TEXT     NOT NULL,
    wait_number        INTEGER  NOT NULL, -- newest interval in waits
    wait_from_us       BIGINT,            -- of the open one
    attempts           INTEGER  NOT NULL, -- number of the newest
    neutral_ends       INTEGER  NOT NULL, -- in a row, since the last accept
    refused_by         TEXT     NOT NULL, -- newest refusal of each slave since then
    settled_us         BIGINT             -- newest time of the attempts that no rule need see any more
);
-- The queue, by what builds require of a slave: those that nobody can take cost
-- nothing to those that somebody can.
CREATE INDEX builds_queue ON builds (requires, priority DESC, n) WHERE state = 'queued';
CREATE INDEX builds_waiting ON builds (wait, requires) WHERE state = 'queued';
CREATE INDEX builds_backoff ON builds (not_before_us) WHERE state = 'queued' AND wait = 'back_off';
CREATE INDEX builds_by_state ON builds (state, n);
CREATE INDEX builds_by_name ON builds (name, n);

CREATE TABLE attempts (
    id          TEXT     NOT NULL PRIMARY KEY,
    build_id    TEXT     NOT NULL REFERENCES builds (id),
    number      INTEGER  NOT NULL,
    slave       TEXT     NOT NULL,
    instance    TEXT     NOT NULL REFERENCES slaves (instance),
    state       TEXT     NOT NULL,
    cause       TEXT     NOT NULL,
    detail      TEXT     NOT NULL,
    outcome     TEXT     NOT NULL,
    superseded  SMALLINT NOT NULL,
    stop        TEXT     NOT NULL,
    slot        SMALLINT NOT NULL,
    reported    SMALLINT NOT NULL,
    refused     INTEGER  NOT NULL,
    refused_seq BIGINT   NOT NULL,
    released    SMALLINT NOT NULL,
    set_aside   SMALLINT NOT NULL,
    assigned_us BIGINT   NOT NULL,
    started_us  BIGINT,
    finished_us BIGINT,
    last_us     BIGINT,            -- newest time at which anything happened to it
    mark        BIGINT   NOT NULL, -- last committed update; written by the fence alone
    chain       BIGINT   NOT NULL, -- chained CRC-32C up to mark
    UNIQUE (build_id, number)
);
-- What rules need to see of a build; of the others nothing more will be heard.
CREATE INDEX attempts_unsettled ON attempts (build_id, number) WHERE released = 0 OR started_us IS NOT NULL OR set_aside = 1;
CREATE INDEX attempts_held ON attempts (instance, id) WHERE released = 0;
CREATE INDEX attempts_slot ON attempts (instance) WHERE slot = 1;
CREATE INDEX attempts_ended ON attempts (instance, finished_us) WHERE finished_us IS NOT NULL; -- for quarantine
CREATE INDEX attempts_live ON attempts (instance, state) WHERE state IN ('assigned', 'running');

CREATE TABLE steps (
    id             TEXT    NOT NULL PRIMARY KEY,
    attempt_id     TEXT    NOT NULL REFERENCES attempts (id),
    number         INTEGER NOT NULL,
    name           TEXT    NOT NULL,
    state          TEXT    NOT NULL,
    exit_code      INTEGER,
    signal         INTEGER NOT NULL,
    cause          TEXT    NOT NULL,
    detail         TEXT    NOT NULL,
    started_us     BIGINT,
    finished_us    BIGINT,
    duration_us    BIGINT  NOT NULL,
    blocked_us     BIGINT  NOT NULL,
    log_state      TEXT    NOT NULL,
    log_mark       BIGINT  NOT NULL, -- committed bytes; written by the fence alone
    log_crc        BIGINT  NOT NULL, -- CRC-32C of the committed bytes
    log_bytes      BIGINT  NOT NULL, -- as the slave reported; -1: not yet
    log_final_crc  BIGINT  NOT NULL, -- as the slave reported
    UNIQUE (attempt_id, number)
);

-- One row per received batch: history and evidence.
CREATE TABLE frames (
    attempt_id  TEXT     NOT NULL REFERENCES attempts (id),
    first_seq   BIGINT   NOT NULL,
    last_seq    BIGINT   NOT NULL,
    crc_before  BIGINT   NOT NULL,
    crc_after   BIGINT   NOT NULL,
    gap         SMALLINT NOT NULL, -- 1: the updates are gone for good (P-gap)
    why         TEXT     NOT NULL, -- of a gap
    received_us BIGINT   NOT NULL,
    data        BLOB     NOT NULL  -- updates, each after its length as uvarint
);
CREATE UNIQUE INDEX frames_by_seq ON frames (attempt_id, first_seq);

-- One row per received log chunk, codec as on the wire.
CREATE TABLE log_chunks (
    step_id     TEXT     NOT NULL REFERENCES steps (id),
    byte_offset BIGINT   NOT NULL,
    raw_len     INTEGER  NOT NULL,
    codec       SMALLINT NOT NULL, -- 1 raw, 2 zstd
    crc         BIGINT   NOT NULL, -- CRC-32C of the raw bytes
    received_us BIGINT   NOT NULL,
    marks       BLOB     NOT NULL, -- times and streams, see package store
    data        BLOB     NOT NULL
);
CREATE UNIQUE INDEX log_chunks_by_offset ON log_chunks (step_id, byte_offset);

-- Log bytes that are gone for good.
CREATE TABLE log_gaps (
    step_id     TEXT     NOT NULL REFERENCES steps (id),
    byte_offset BIGINT   NOT NULL,
    byte_end    BIGINT   NOT NULL, -- exclusive
    torn        SMALLINT NOT NULL,
    why         TEXT     NOT NULL,
    received_us BIGINT   NOT NULL,
    PRIMARY KEY (step_id, byte_offset)
);

-- One row per instance. The row with holds_name = 1 is the one its name means.
CREATE TABLE slaves (
    instance          TEXT     NOT NULL PRIMARY KEY,
    name              TEXT     NOT NULL,
    holds_name        SMALLINT NOT NULL,
    connected         SMALLINT NOT NULL,
    since_us          BIGINT   NOT NULL,
    epoch             BIGINT   NOT NULL,
    incarnation       BIGINT   NOT NULL,
    start_id          TEXT     NOT NULL,
    boot_id           TEXT     NOT NULL,
    fingerprint       TEXT     NOT NULL,
    journal_id        TEXT     NOT NULL,
    master            TEXT     NOT NULL,
    agent_version     TEXT     NOT NULL,
    features          TEXT     NOT NULL,
    labels            TEXT     NOT NULL,
    host              TEXT     NOT NULL,
    slots             INTEGER  NOT NULL,
    first_seen_us     BIGINT   NOT NULL,
    drained           SMALLINT NOT NULL,
    drained_us        BIGINT,
    drain_reason      TEXT     NOT NULL,
    quarantined_us    BIGINT,
    quarantine_reason TEXT     NOT NULL,
    released_us       BIGINT,            -- when a person last ended a quarantine: ends before it no longer count
    refused_us        BIGINT,            -- when another was last refused in its place
    refused_why       TEXT     NOT NULL,
    slots_freed       BIGINT   NOT NULL  -- times that an accepted attempt has given its slot back
);
CREATE INDEX slaves_by_name ON slaves (name);
CREATE UNIQUE INDEX slaves_holding_name ON slaves (name) WHERE holds_name = 1;

-- History. Readers see only numbered rows; n is in commit order.
CREATE TABLE events (
    id         INTEGER PRIMARY KEY,
    n          BIGINT UNIQUE,
    at_us      BIGINT NOT NULL,
    topic      TEXT   NOT NULL,
    build_id   TEXT,
    attempt_id TEXT,
    step_id    TEXT,
    slave      TEXT,
    who        TEXT   NOT NULL,
    why        TEXT   NOT NULL,
    data       TEXT   NOT NULL
);
CREATE INDEX events_by_build ON events (build_id, n) WHERE build_id IS NOT NULL;

-- The wait ledger: one interval's end is the next one's start.
CREATE TABLE waits (
    build_id TEXT    NOT NULL REFERENCES builds (id),
    number   INTEGER NOT NULL,
    cause    TEXT    NOT NULL,
    from_us  BIGINT  NOT NULL,
    to_us    BIGINT,
    PRIMARY KEY (build_id, number)
);
CREATE UNIQUE INDEX waits_open ON waits (build_id) WHERE to_us IS NULL;

-- Request keys (P-submit). They live as long as their build.
CREATE TABLE requests (
    key      TEXT   NOT NULL PRIMARY KEY,
    kind     TEXT   NOT NULL,
    body     TEXT   NOT NULL, -- SHA-256 of what was asked for
    build_id TEXT   NOT NULL REFERENCES builds (id),
    result   TEXT   NOT NULL, -- JSON
    at_us    BIGINT NOT NULL
);
CREATE INDEX requests_by_build ON requests (build_id);

-- Frames that broke the protocol, kept as evidence (P-refuse, P-diverged).
CREATE TABLE refused_frames (
    attempt_id  TEXT   NOT NULL REFERENCES attempts (id),
    seq         BIGINT NOT NULL, -- of a status frame
    step_id     TEXT   NOT NULL, -- of a log frame, as it was told; else empty
    byte_offset BIGINT NOT NULL, -- of a log frame
    epoch       BIGINT NOT NULL, -- of the session; it ended with the refusal
    why         TEXT   NOT NULL,
    at_us       BIGINT NOT NULL,
    data        BLOB   NOT NULL,
    PRIMARY KEY (attempt_id, seq, step_id, byte_offset, epoch)
);

-- Public views. Columns are only ever added. Times are RFC 3339 text with
-- milliseconds and Z.

CREATE VIEW v1_builds AS
SELECT id, n AS number, name, state, reason, submitter,
    strftime('%Y-%m-%dT%H:%M:%S', created_us / 1000000, 'unixepoch') || printf('.%03dZ', created_us / 1000 % 1000) AS created_at,
    strftime('%Y-%m-%dT%H:%M:%S', queued_us / 1000000, 'unixepoch') || printf('.%03dZ', queued_us / 1000 % 1000) AS queued_at,
    strftime('%Y-%m-%dT%H:%M:%S', not_before_us / 1000000, 'unixepoch') || printf('.%03dZ', not_before_us / 1000 % 1000) AS not_before,
    strftime('%Y-%m-%dT%H:%M:%S', started_us / 1000000, 'unixepoch') || printf('.%03dZ', started_us / 1000 % 1000) AS started_at,
    strftime('%Y-%m-%dT%H:%M:%S', finished_us / 1000000, 'unixepoch') || printf('.%03dZ', finished_us / 1000 % 1000) AS finished_at,
    transient_failures, priority,
    nullif(cause, '') AS cause, nullif(detail, '') AS detail, nullif(wait, '') AS wait,
    granted, lost_by, spec
FROM builds;

-- An attempt is shown as away after 45 s (P-alive).
CREATE VIEW v1_attempts AS
SELECT a.id, a.build_id, a.number, a.slave, a.instance, a.state,
    CASE WHEN a.state IN ('assigned', 'running') AND s.connected = 0
        AND s.since_us <= (strftime('%s', 'now') - 45) * 1000000 THEN 1 ELSE 0 END AS away,
    nullif(a.cause, '') AS cause, nullif(a.detail, '') AS detail,
    a.superseded, nullif(a.outcome, '') AS outcome, nullif(a.stop, '') AS stop,
    a.slot, a.reported, a.released, a.set_aside,
    strftime('%Y-%m-%dT%H:%M:%S', a.assigned_us / 1000000, 'unixepoch') || printf('.%03dZ', a.assigned_us / 1000 % 1000) AS assigned_at,
    strftime('%Y-%m-%dT%H:%M:%S', a.started_us / 1000000, 'unixepoch') || printf('.%03dZ', a.started_us / 1000 % 1000) AS started_at,
    strftime('%Y-%m-%dT%H:%M:%S', a.finished_us / 1000000, 'unixepoch') || printf('.%03dZ', a.finished_us / 1000 % 1000) AS finished_at,
    a.mark, a.chain AS chain_crc
FROM attempts a JOIN slaves s ON s.instance = a.instance;

CREATE VIEW v1_steps AS
SELECT id, attempt_id, number, name, state, exit_code, nullif(signal, 0) AS signal,
    nullif(cause, '') AS cause, nullif(detail, '') AS detail,
    strftime('%Y-%m-%dT%H:%M:%S', started_us / 1000000, 'unixepoch') || printf('.%03dZ', started_us / 1000 % 1000) AS started_at,
    strftime('%Y-%m-%dT%H:%M:%S', finished_us / 1000000, 'unixepoch') || printf('.%03dZ', finished_us / 1000 % 1000) AS finished_at,
    duration_us, blocked_us, log_state,
    log_mark AS log_bytes, log_crc,
    CASE WHEN log_bytes < 0 THEN NULL ELSE log_bytes END AS log_expected_bytes,
    CASE WHEN log_bytes < 0 THEN NULL ELSE log_final_crc END AS log_expected_crc
FROM steps;

CREATE VIEW v1_slaves AS
SELECT s.name, s.instance, CASE s.connected WHEN 1 THEN 'connected' ELSE 'away' END AS state,
    strftime('%Y-%m-%dT%H:%M:%S', s.since_us / 1000000, 'unixepoch') || printf('.%03dZ', s.since_us / 1000 % 1000) AS since,
    s.holds_name, s.epoch, s.incarnation, s.boot_id, s.fingerprint, s.journal_id,
    nullif(s.master, '') AS master, s.agent_version, s.features, s.labels, s.host, s.slots,
    (SELECT count(*) FROM attempts a WHERE a.instance = s.instance AND a.slot = 1) AS slots_busy,
    s.drained, nullif(s.drain_reason, '') AS drain_reason,
    strftime('%Y-%m-%dT%H:%M:%S', s.quarantined_us / 1000000, 'unixepoch') || printf('.%03dZ', s.quarantined_us / 1000 % 1000) AS quarantined_at,
    nullif(s.quarantine_reason, '') AS quarantine_reason,
    strftime('%Y-%m-%dT%H:%M:%S', s.refused_us / 1000000, 'unixepoch') || printf('.%03dZ', s.refused_us / 1000 % 1000) AS refused_at,
    nullif(s.refused_why, '') AS refused_why,
    strftime('%Y-%m-%dT%H:%M:%S', s.first_seen_us / 1000000, 'unixepoch') || printf('.%03dZ', s.first_seen_us / 1000 % 1000) AS first_seen_at
FROM slaves s;

CREATE VIEW v1_waits AS
SELECT build_id, number, cause,
    strftime('%Y-%m-%dT%H:%M:%S', from_us / 1000000, 'unixepoch') || printf('.%03dZ', from_us / 1000 % 1000) AS from_at,
    strftime('%Y-%m-%dT%H:%M:%S', to_us / 1000000, 'unixepoch') || printf('.%03dZ', to_us / 1000 % 1000) AS to_at,
    (to_us - from_us) / 1000000.0 AS seconds,
    to_us - from_us AS duration_us
FROM waits;

CREATE VIEW v1_events AS
SELECT n,
    strftime('%Y-%m-%dT%H:%M:%S', at_us / 1000000, 'unixepoch') || printf('.%03dZ', at_us / 1000 % 1000) AS at,
    topic, build_id, attempt_id, step_id, slave,
    nullif(who, '') AS who, nullif(why, '') AS why, data
FROM events WHERE n IS NOT NULL;

-- What was received of each stream, batch by batch, without the bytes.
CREATE VIEW v1_frames AS
SELECT attempt_id, first_seq, last_seq, crc_before, crc_after, gap, nullif(why, '') AS why,
    strftime('%Y-%m-%dT%H:%M:%S', received_us / 1000000, 'unixepoch') || printf('.%03dZ', received_us / 1000 % 1000) AS received_at,
    length(data) AS bytes
FROM frames;

-- What was received of each log, chunk by chunk, without the bytes; gaps have
-- codec 0.
CREATE VIEW v1_log_chunks AS
SELECT step_id, byte_offset, byte_offset + raw_len AS byte_end, codec, crc, length(data) AS stored_bytes
FROM log_chunks
UNION ALL
SELECT step_id, byte_offset, byte_end, 0, NULL, 0 FROM log_gaps;
