package transfer

import "time"

// Config says what to move, and how. Zero fields take their defaults.
type Config struct {
	// From and To are the two ends. Required.
	From, To Place
	// Version of this holdfast, for the marks.
	Version string
	// Watch is how long the beats of masters that have not ended must stand still
	// before they are taken for dead (PostgreSQL). Default 10 s, which is several
	// beats. A source without such masters is not watched.
	Watch time.Duration
	// BatchRows and BatchBytes bound what is written in one transaction. Default
	// 2000 rows, 4 MiB.
	BatchRows, BatchBytes int
	// Progress is told how far it has come, often, never by two goroutines at once.
	// Default: nobody is.
	Progress func(Progress)
	// Now is the clock for the marks. Default time.Now.
	Now func() time.Time
}

func (c Config) check() (Config, error) {
	if c.From.name == "" || c.To.name == "" {
		return c, ErrPlace
	}
	if c.Watch <= 0 {
		c.Watch = 10 * time.Second
	}
	if c.BatchRows <= 0 {
		c.BatchRows = 2000
	}
	if c.BatchBytes <= 0 {
		c.BatchBytes = 4 << 20
	}
	if c.Progress == nil {
		c.Progress = func(Progress) {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c, nil
}

// Progress is how far a transfer has come.
type Progress struct {
	Phase Phase
	Table string
	Done  int64 // rows, in this phase
	Total int64
}

// Phase is what a transfer is at.
type Phase string

// The phases.
const (
	Watching  Phase = "watching for masters"
	Copying   Phase = "copying"
	Verifying Phase = "reading back"
)

// Result is what was moved.
type Result struct {
	StoreID string
	Tables  map[string]TableResult
	// Rows and Bytes are sums over the tables; bytes are those of the canonical
	// form, about what the values take.
	Rows, Bytes int64
	// SHA256 is that of all tables.
	SHA256 string
	// Changed counts the texts that the target cannot keep as they are.
	Changed int64
	// Left are the tables of the source that are not holdfast's.
	Left []string
	// Resumed: an earlier transfer had begun. Finished: it had written everything,
	// and the source has only been marked, or was even that.
	Resumed, Finished bool
}

// TableResult is a table that was moved.
type TableResult struct {
	Rows, Bytes int64
	SHA256      string // as package transfer documents it
}
