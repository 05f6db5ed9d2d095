-- The table by which other programs ask for something. SCHEMA.md is its contract.

-- +goose Up

CREATE TABLE v1_commands (
    n           BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id          TEXT NOT NULL UNIQUE,
    command     TEXT NOT NULL,
    build_id    TEXT,
    args        TEXT,
    who         TEXT DEFAULT session_user,
    reason      TEXT,
    created_at  TEXT NOT NULL DEFAULT v1_time((extract(epoch FROM clock_timestamp()) * 1000000)::bigint),
    state       TEXT NOT NULL DEFAULT 'new' CHECK (state IN ('new', 'done', 'refused')),
    refusal     TEXT,
    answer      TEXT,
    answered_at TEXT
);
CREATE INDEX v1_commands_new ON v1_commands (n) WHERE state = 'new';

-- Masters hear of new rows at once: a hint as they send each other (package postgres, relay.go);
-- 6 is notify.Commands.
-- +goose StatementBegin
CREATE FUNCTION v1_commands_hint() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('holdfast', '{"m":"","k":[{"Kind":6,"ID":""}]}');
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER v1_commands_hint AFTER INSERT ON v1_commands FOR EACH STATEMENT EXECUTE FUNCTION v1_commands_hint();
