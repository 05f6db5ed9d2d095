-- What operators look at: how often a slave went away, and when it was drained.

-- +goose Up

-- Events are found by build; of slaves only this is asked.
CREATE INDEX events_flaps ON events (at_us, slave) WHERE topic = 'slave.away';

DROP VIEW v1_slaves;
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
    strftime('%Y-%m-%dT%H:%M:%S', s.first_seen_us / 1000000, 'unixepoch') || printf('.%03dZ', s.first_seen_us / 1000 % 1000) AS first_seen_at,
    strftime('%Y-%m-%dT%H:%M:%S', s.drained_us / 1000000, 'unixepoch') || printf('.%03dZ', s.drained_us / 1000 % 1000) AS drained_at,
    (SELECT count(*) FROM events e WHERE e.topic = 'slave.away' AND e.slave = s.name
        AND e.at_us > (strftime('%s', 'now') - 86400) * 1000000) AS flaps
FROM slaves s;
