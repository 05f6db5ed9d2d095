package store

import "context"

// Command is a row of v1_commands, the table by which other programs ask for something;
// SCHEMA.md has its contract. What they write may be anything.
type Command struct {
	N        int64 // number of the row, in the order of insertion
	ID       string
	Command  string
	Build    string
	Args     string
	Who, Why string
	// Wrong is why the row cannot be read as it should; then only N and ID, which may be cut,
	// are set.
	Wrong string
}

// CommandAnswer is what has come of a row.
type CommandAnswer struct {
	N  int64
	ID string // of the row, as Pending told it: another file may have another row of that number
	// Refusal is why it was not done, for people; empty: it was.
	Refusal string
	// Answer is JSON.
	Answer string
}

// Limits of what is read of a row. What is longer is Wrong.
const (
	MaxCommandWord = 255     // bytes of id, command, build_id, who
	MaxCommandText = 4096    // bytes of reason
	MaxCommandArgs = 1 << 20 // bytes of args
)

// Commands is where other programs leave commands: a table of a PostgreSQL store, a file of
// its own beside an embedded one. It is safe for concurrent use.
//
// A row is answered after what it asks for is durable in the store. If we crash in between, it
// is found again; its id is its request key, so the effect is not repeated and the answer
// is the same (P-submit).
type Commands interface {
	// Pending returns the oldest rows without an answer after row n.
	Pending(ctx context.Context, n int64, limit int) ([]Command, error)
	// Answer writes answers; to a row that has one already it changes nothing.
	Answer(ctx context.Context, answers []CommandAnswer) error
	// Watch calls changed when there may be new rows, until ctx ends. A call may be missed,
	// or come without a reason.
	Watch(ctx context.Context, changed func())
}

// CheckCommand says what is wrong with the sizes of a row, in bytes as the database counts them.
func CheckCommand(id, command, build, args, who, why int64) string {
	for _, c := range []struct {
		name     string
		is, most int64
	}{{"id", id, MaxCommandWord}, {"command", command, MaxCommandWord}, {"build_id", build, MaxCommandWord}, {"who", who, MaxCommandWord}, {"reason", why, MaxCommandText}, {"args", args, MaxCommandArgs}} {
		if c.is > c.most {
			return c.name + " is too long"
		}
	}
	if id == 0 {
		return "id is empty: choose one that no other command has, such as a UUID; it makes a repeated command harmless"
	}
	return ""
}
