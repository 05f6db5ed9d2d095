package deptest

// A rule forbids imports. Packages are named by path, ours without the module;
// a path stands for its whole subtree ("master" is master/store too).
type rule struct {
	// name in one breath.
	name string
	// of are the packages the rule is about, except those of exceptOf.
	of, exceptOf []string
	// forbids are what they may not import, except what is in allows. A
	// package may always import what is in the same entry of of as itself.
	forbids, allows []string
	// reach: also forbid what their imports import in turn. Without it only
	// import statements count, as it must be for libraries: prometheus brings
	// protobuf along, which is no business of its users.
	reach bool
	// tests: their tests are held to it too.
	tests bool
	// reason is told to whoever breaks it.
	reason string
	// bites is an import, "from to", that the rule must refuse; it keeps a
	// rule with a slip of the pen from passing for ever.
	bites string
}

const (
	ours     = "@ours" // every package of this module
	grpc     = "google.golang.org/grpc"
	protobuf = "google.golang.org/protobuf"
)

var rules = []rule{
	{
		name: "master knows no slave", of: []string{"master"}, forbids: []string{"slave"}, reach: true, tests: true,
		reason: "the two sides meet on the wire and nowhere else: they are upgraded apart. A test of both belongs under cmd/internal",
		bites:  "master/link slave/spool",
	},
	{
		name: "slave knows no master", of: []string{"slave"}, forbids: []string{"master"}, reach: true, tests: true,
		reason: "the two sides meet on the wire and nowhere else: they are upgraded apart. A test of both belongs under cmd/internal",
		bites:  "slave master/spec",
	},
	{
		name: "proto, retry, journal stand alone", of: []string{"proto", "retry", "journal"}, forbids: []string{ours}, reach: true, tests: true,
		reason: "they are the ground the rest stands on, and of use to others by themselves",
		bites:  "journal proto/chain",
	},
	{
		name: "only cmd sees cmd", of: []string{ours}, exceptOf: []string{"cmd"}, forbids: []string{"cmd"}, tests: true,
		reason: "commands are made of the packages, not the packages of commands",
		bites:  "master/api cmd/internal/client",
	},
	{
		name: "journal and retry are not about gRPC", of: []string{"journal", "retry"}, forbids: []string{grpc, protobuf}, tests: true,
		reason: "a journal record is opaque bytes, a cause is a word; neither may change with the wire",
		bites:  "journal google.golang.org/protobuf/proto",
	},
	{
		name: "lifecycle imports retry only", of: []string{"master/lifecycle"}, forbids: []string{ours}, allows: []string{"retry"}, reach: true, tests: true,
		reason: "the rules of builds are pure: both stores and the simulation run the same ones",
		bites:  "master/lifecycle master/store",
	},
	{
		name: "lifecycle and retry have no clock, no I/O, no chance", of: []string{"master/lifecycle", "retry"},
		forbids: []string{"os", "io/fs", "net", "syscall", "database/sql", "log", "context", "sync", "math/rand", "crypto/rand", grpc, protobuf},
		reason:  "same input, same output: that is what lets scenario files and the model test prove them. Time and jitter are given",
		bites:   "retry math/rand/v2",
	},
	{
		name:     "protobuf stops at the edge",
		of:       []string{"master", "slave/runner", "slave/spool"},
		exceptOf: []string{"master/link", "master/api", "master/spec/specpb", "master/mastertest"},
		forbids:  []string{"proto", protobuf}, allows: []string{"proto/chain", "proto/rpcerr", "proto/failpoint"},
		reason: "link, api and specpb translate (mastertest is a peer that speaks the wire); what a store keeps and a rule decides must not change shape with the wire. proto/chain is arithmetic, proto/failpoint nothing at all, both without protobuf",
		bites:  "master/store/sqlite proto/holdfast/v1",
	},
	{
		name:    "gRPC stops at the edge",
		of:      []string{"master/lifecycle", "master/schedule", "master/store", "master/spec", "master/notify", "slave/runner", "slave/spool"},
		forbids: []string{grpc, "proto/rpcerr"},
		reason:  "they return errors of their own; proto/rpcerr turns them into a status once, where the call came in",
		bites:   "master/store google.golang.org/grpc/status",
	},
	{
		name: "bbolt belongs to the journal", of: []string{ours}, exceptOf: []string{"journal"}, forbids: []string{"go.etcd.io/bbolt"},
		reason: "one package knows the file and its traps (reserve, child that verifies, compaction)",
		bites:  "slave go.etcd.io/bbolt",
	},
	{
		name: "no C", of: []string{ours}, forbids: []string{"C"}, tests: true,
		reason: "one static binary that builds without a C compiler",
		bites:  "slave/runner C",
	},
	{
		name: "no handlers by import", of: []string{ours}, forbids: []string{"net/http/pprof", "expvar"},
		reason: "they register themselves on the default mux, where they are served by accident",
		bites:  "master/api net/http/pprof",
	},
	{
		name: "databases meet in transfer alone", of: []string{"master/store/sqlite", "master/store/postgres", "master/store/columns"},
		forbids: []string{"master/store/sqlite", "master/store/postgres", "master/store/transfer"},
		reason:  "a database is a whole store by itself; what moves one into another sees both, and neither sees it",
		bites:   "master/store/sqlite master/store/postgres",
	},
	{
		name: "transfer is a command's", of: []string{ours}, exceptOf: []string{"cmd", "master/store/transfer"}, forbids: []string{"master/store/transfer"},
		reason: "it writes to stores past their rules, while no master runs; a master must not reach it",
		bites:  "master master/store/transfer",
	},
	{
		name: "test helpers stay out of the binary", of: []string{"cmd/holdfast"},
		forbids: []string{"testing", "github.com/google/go-cmp", "journal/journaltest", "master/store/storetest", "master/store/pgtest", "cmd/internal/sim", "cmd/internal/e2e", "cmd/internal/deptest"},
		reach:   true,
		reason:  "what is only for tests may be careless, and may turn dangerous switches",
		bites:   "cmd/holdfast journal/journaltest",
	},
}

// drawers are names that say nothing about what is inside, so that everything
// ends up there.
var drawers = []string{"util", "utils", "common", "types", "base", "helper", "helpers", "model", "models", "misc", "shared"}
