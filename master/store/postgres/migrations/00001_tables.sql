-- Base tables of a holdfast store: those of SQLite (../../sqlite/migrations), with
-- the same columns and views; only BLOB is BYTEA here. What masters write and look
-- up by is compared byte by byte (COLLATE "C"), as Go does.
--
-- Times are microseconds since the Unix epoch, UTC (*_us); NULL: not yet.
-- Ids are ULIDs, TEXT of 26 characters. Booleans are SMALLINT 0/1. Sequence
-- numbers and epochs are BIGINT; CRCs are BIGINT holding 32 unsigned bits.
-- Lists and maps are JSON text.

-- +goose Up

CREATE TABLE store_meta (
    key   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

-- Numbers that were given; they never go back, whatever is pruned.
CREATE TABLE counters (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    last BIGINT NOT NULL
);
INSERT INTO counters (name, last) VALUES ('builds', 0), ('events', 0), ('brake_releases', 0);

-- Masters that have used the store. Each counts its beats while it can commit; one
-- whose count stands still is declared over by another.
CREATE TABLE masters (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
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

CREATE TABLE builds (
    id                 TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    n                  BIGINT   NOT NULL UNIQUE, -- order of submission
    name               TEXT COLLATE "C" NOT NULL,
    spec               TEXT     NOT NULL,
    policy             TEXT     NOT NULL,
    priority           INTEGER  NOT NULL,
    requires           TEXT COLLATE "C" NOT NULL, -- of policy; keys are sorted
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
    settled_us         BIGINT,            -- newest time of the attempts that no rule need see any more
    recovered          TEXT     NOT NULL, -- why a slave had to bring it back
    backoff_us         BIGINT
);
-- The queue, by what builds require of a slave: those that nobody can take cost
-- nothing to those that somebody can.
CREATE INDEX builds_queue ON builds (requires, priority DESC, n) WHERE state = 'queued';
CREATE INDEX builds_waiting ON builds (wait, requires) WHERE state = 'queued';
CREATE INDEX builds_backoff ON builds (not_before_us) WHERE state = 'queued' AND wait = 'back_off';
CREATE INDEX builds_backoff_began ON builds ((not_before_us - 2 * backoff_us - 60000000)) WHERE state = 'queued' AND wait = 'back_off';
CREATE INDEX builds_by_state ON builds (state, n);
CREATE INDEX builds_by_name ON builds (name, n);

-- One row per instance. The row with holds_name = 1 is the one its name means.
CREATE TABLE slaves (
    instance          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name              TEXT COLLATE "C" NOT NULL,
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

CREATE TABLE attempts (
    id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    build_id    TEXT COLLATE "C" NOT NULL REFERENCES builds (id),
    number      INTEGER  NOT NULL,
    slave       TEXT COLLATE "C" NOT NULL,
    instance    TEXT COLLATE "C" NOT NULL REFERENCES slaves (instance),
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
    id             TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    attempt_id     TEXT COLLATE "C" NOT NULL REFERENCES attempts (id),
    number         INTEGER NOT NULL,
    name           TEXT COLLATE "C" NOT NULL,
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
    attempt_id  TEXT COLLATE "C" NOT NULL REFERENCES attempts (id),
    first_seq   BIGINT   NOT NULL,
    last_seq    BIGINT   NOT NULL,
    crc_before  BIGINT   NOT NULL,
    crc_after   BIGINT   NOT NULL,
    gap         SMALLINT NOT NULL, -- 1: the updates are gone for good (P-gap)
    why         TEXT     NOT NULL, -- of a gap
    received_us BIGINT   NOT NULL,
    data        BYTEA    NOT NULL  -- updates, each after its length as uvarint
);
CREATE UNIQUE INDEX frames_by_seq ON frames (attempt_id, first_seq);

-- One row per received log chunk, codec as on the wire.
CREATE TABLE log_chunks (
    step_id     TEXT COLLATE "C" NOT NULL REFERENCES steps (id),
    byte_offset BIGINT   NOT NULL,
    raw_len     INTEGER  NOT NULL,
    codec       SMALLINT NOT NULL, -- 1 raw, 2 zstd
    crc         BIGINT   NOT NULL, -- CRC-32C of the raw bytes
    received_us BIGINT   NOT NULL,
    marks       BYTEA    NOT NULL, -- times and streams, see package store
    data        BYTEA    NOT NULL
);
CREATE UNIQUE INDEX log_chunks_by_offset ON log_chunks (step_id, byte_offset);

-- Log bytes that are gone for good.
CREATE TABLE log_gaps (
    step_id     TEXT COLLATE "C" NOT NULL REFERENCES steps (id),
    byte_offset BIGINT   NOT NULL,
    byte_end    BIGINT   NOT NULL, -- exclusive
    torn        SMALLINT NOT NULL,
    why         TEXT     NOT NULL,
    received_us BIGINT   NOT NULL,
    PRIMARY KEY (step_id, byte_offset)
);

-- History. Readers see only numbered rows; n is in commit order.
CREATE TABLE events (
    id         BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    n          BIGINT UNIQUE, -- in commit order; NULL: not numbered yet
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
CREATE INDEX events_unnumbered ON events (id) WHERE n IS NULL;
CREATE INDEX events_flaps ON events (at_us, slave) WHERE topic = 'slave.away';
CREATE INDEX events_by_build ON events (build_id, n) WHERE build_id IS NOT NULL;

-- The wait ledger: one interval's end is the next one's start.
CREATE TABLE waits (
    build_id TEXT COLLATE "C" NOT NULL REFERENCES builds (id),
    number   INTEGER NOT NULL,
    cause    TEXT    NOT NULL,
    from_us  BIGINT  NOT NULL,
    to_us    BIGINT,
    PRIMARY KEY (build_id, number)
);
CREATE UNIQUE INDEX waits_open ON waits (build_id) WHERE to_us IS NULL;

-- Request keys (P-submit). They live as long as their build.
CREATE TABLE requests (
    key      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    kind     TEXT   NOT NULL,
    body     TEXT   NOT NULL, -- SHA-256 of what was asked for
    build_id TEXT COLLATE "C" NOT NULL REFERENCES builds (id),
    result   TEXT   NOT NULL, -- JSON
    at_us    BIGINT NOT NULL
);
CREATE INDEX requests_by_build ON requests (build_id);

-- Frames that broke the protocol, kept as evidence (P-refuse, P-diverged).
CREATE TABLE refused_frames (
    attempt_id  TEXT COLLATE "C" NOT NULL REFERENCES attempts (id),
    seq         BIGINT NOT NULL, -- of a status frame
    step_id     TEXT COLLATE "C" NOT NULL, -- of a log frame, as it was told; else empty
    byte_offset BIGINT NOT NULL, -- of a log frame
    epoch       BIGINT NOT NULL, -- of the session; it ended with the refusal
    why         TEXT   NOT NULL,
    at_us       BIGINT NOT NULL,
    data        BYTEA  NOT NULL,
    PRIMARY KEY (attempt_id, seq, step_id, byte_offset, epoch)
);

-- Public views. Columns are only ever added. Times are RFC 3339 text with
-- milliseconds and Z.

-- v1_time is a time as the views show it.
CREATE FUNCTION v1_time(us BIGINT) RETURNS TEXT LANGUAGE sql STABLE PARALLEL SAFE
RETURN to_char(timestamp 'epoch' + us * interval '1 microsecond', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');

CREATE VIEW v1_builds AS
SELECT id, n AS number, name, state, reason, submitter,
    v1_time(created_us) AS created_at,
    v1_time(queued_us) AS queued_at,
    v1_time(not_before_us) AS not_before,
    v1_time(started_us) AS started_at,
    v1_time(finished_us) AS finished_at,
    transient_failures, priority,
    nullif(cause, '') AS cause, nullif(detail, '') AS detail, nullif(wait, '') AS wait,
    granted, lost_by, spec, nullif(recovered, '') AS recovered
FROM builds;

-- An attempt is shown as away after 45 s (P-alive).
CREATE VIEW v1_attempts AS
SELECT a.id, a.build_id, a.number, a.slave, a.instance, a.state,
    CASE WHEN a.state IN ('assigned', 'running') AND s.connected = 0
        AND s.since_us <= (extract(epoch FROM now())::bigint - 45) * 1000000 THEN 1 ELSE 0 END AS away,
    nullif(a.cause, '') AS cause, nullif(a.detail, '') AS detail,
    a.superseded, nullif(a.outcome, '') AS outcome, nullif(a.stop, '') AS stop,
    a.slot, a.reported, a.released, a.set_aside,
    v1_time(a.assigned_us) AS assigned_at,
    v1_time(a.started_us) AS started_at,
    v1_time(a.finished_us) AS finished_at,
    a.mark, a.chain AS chain_crc
FROM attempts a JOIN slaves s ON s.instance = a.instance;

CREATE VIEW v1_steps AS
SELECT id, attempt_id, number, name, state, exit_code, nullif(signal, 0) AS signal,
    nullif(cause, '') AS cause, nullif(detail, '') AS detail,
    v1_time(started_us) AS started_at,
    v1_time(finished_us) AS finished_at,
    duration_us, blocked_us, log_state,
    log_mark AS log_bytes, log_crc,
    CASE WHEN log_bytes < 0 THEN NULL ELSE log_bytes END AS log_expected_bytes,
    CASE WHEN log_bytes < 0 THEN NULL ELSE log_final_crc END AS log_expected_crc
FROM steps;

CREATE VIEW v1_slaves AS
SELECT s.name, s.instance, CASE s.connected WHEN 1 THEN 'connected' ELSE 'away' END AS state,
    v1_time(s.since_us) AS since,
    s.holds_name, s.epoch, s.incarnation, s.boot_id, s.fingerprint, s.journal_id,
    nullif(s.master, '') AS master, s.agent_version, s.features, s.labels, s.host, s.slots,
    (SELECT count(*) FROM attempts a WHERE a.instance = s.instance AND a.slot = 1) AS slots_busy,
    s.drained, nullif(s.drain_reason, '') AS drain_reason,
    v1_time(s.quarantined_us) AS quarantined_at,
    nullif(s.quarantine_reason, '') AS quarantine_reason,
    v1_time(s.refused_us) AS refused_at,
    nullif(s.refused_why, '') AS refused_why,
    v1_time(s.first_seen_us) AS first_seen_at,
    v1_time(s.drained_us) AS drained_at,
    (SELECT count(*) FROM events e WHERE e.topic = 'slave.away' AND e.slave = s.name
        AND e.at_us > (extract(epoch FROM now())::bigint - 86400) * 1000000) AS flaps
FROM slaves s;

CREATE VIEW v1_masters AS
SELECT id, CASE WHEN ended_us IS NULL THEN 'serving' ELSE 'over' END AS state,
    addrs, http, host, version, features,
    v1_time(started_us) AS started_at, v1_time(beat_us) AS beat_at, v1_time(ended_us) AS ended_at,
    nullif(ended_why, '') AS ended_why
FROM masters;

CREATE VIEW v1_waits AS
SELECT build_id, number, cause,
    v1_time(from_us) AS from_at,
    v1_time(to_us) AS to_at,
    (to_us - from_us) / 1000000.0::double precision AS seconds,
    to_us - from_us AS duration_us
FROM waits;

CREATE VIEW v1_events AS
SELECT n,
    v1_time(at_us) AS at,
    topic, build_id, attempt_id, step_id, slave,
    nullif(who, '') AS who, nullif(why, '') AS why, data
FROM events WHERE n IS NOT NULL;

-- What was received of each stream, batch by batch, without the bytes.
CREATE VIEW v1_frames AS
SELECT attempt_id, first_seq, last_seq, crc_before, crc_after, gap, nullif(why, '') AS why,
    v1_time(received_us) AS received_at,
    length(data) AS bytes
FROM frames;

-- What was received of each log, chunk by chunk, without the bytes; gaps have
-- codec 0.
CREATE VIEW v1_log_chunks AS
SELECT step_id, byte_offset, byte_offset + raw_len AS byte_end, codec, crc, length(data) AS stored_bytes
FROM log_chunks
UNION ALL
SELECT step_id, byte_offset, byte_end, 0, NULL, 0 FROM log_gaps;
