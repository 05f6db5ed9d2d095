package postgres

import (
	"context"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"holdfast/master/notify"
	"holdfast/master/store"
)

// Facts are those of a server that is fit, but for what change does to them.
func Facts(change func(version *int, fsync, fullPageWrites, standby, encoding *string, pid *uint32)) error {
	f := facts{version: minVersion, fsync: "on", fullPageWrites: "on", standby: "false", encoding: "UTF8", pid: 1}
	change(&f.version, &f.fsync, &f.fullPageWrites, &f.standby, &f.encoding, &f.pid)
	return f.fit(1)
}

// SessionSettings are the names of the settings of every connection.
func SessionSettings() []string { return slices.Sorted(maps.Keys(sessionSettings)) }

// ConnConfig is what the store's own connections are made of.
func ConnConfig(url string) (*pgx.ConnConfig, error) {
	_, cc, err := Config{URL: url}.check()
	return cc, err
}

// ReaderConfig is what its connections for reading are made of.
func ReaderConfig(cc *pgx.ConnConfig) *pgx.ConnConfig { return readerConfig(cc) }

// ClassOf is the class of an answer of the server.
var ClassOf = classOf

// The statements, by the names that plans_test.go has for them.
var (
	InTransactions = map[string]string{
		"lock slaves": lockSlaves, "lock sessions": lockSessions, "lock builds": lockBuilds, "lock attempts": lockAttempts,
		"lock steps": lockSteps, "lock requests": lockRequests,
		"slaves": slavesQuery, "sessions": sessionsQuery, "streams": streamsQuery, "logs": logsQuery, "requests": requestsQuery,
		"refusals": refusalsQuery, "builds": buildsQuery, "wanted attempts": wantedAttempts, "wanted steps": wantedSteps,
		"frame": frameQuery, "ends": endsQuery, "take counter": takeCounter, "number": numberEvents, "store id": storeID,

		"fences": fences.query, "log fences": logFences.query, "old slaves": oldSlaves.query, "old builds": oldBuilds.query,
		"old attempts": oldAttempts.query, "old steps": oldSteps.query, "closed waits": closedWaits.query, "new builds": newBuilds.query,
	}
	Reads = map[string]string{
		"a build": buildsQuery,
		"sets":    requirementsQuery, "queue": queueQuery, "ready": readyQuery, "waiting": waitingQuery, "waiting of": waitingOfQuery,
		"backed off": backedOffQuery, "turned back": turnedBackQuery, "next": nextReadyQuery,
		"all attempts": allAttempts, "all steps": allSteps, "all slaves": allSlaves, "flaps": flapsQuery,
		"epoch": epochQuery, "held": heldQuery, "held builds": heldBuilds, "held attempts": heldAttempts, "held steps": heldSteps,
		"absentees": absenteesQuery, "events": eventsQuery, "of build": ofBuild, "of slave": ofSlave, "newest": newestQuery, "log": logQuery,
	}
)

// ListQuery is the statement of a listing.
func ListQuery(f store.BuildFilter) string {
	query, _ := listQuery(f)
	return query
}

// The statements of the sequencer.
const (
	TakeCounter    = takeCounter
	NumberEvents   = numberEvents
	NumberedAtOnce = numberedAtOnce
)

// Pass is one pass of a Relay that does not run.
func (r *Relay) Pass(ctx context.Context, hub *notify.Hub) error { return r.pass(ctx, hub, false) }
