package journal_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"holdfast/journal"
)

// A slave's life with its journal: append before sending, trim when acknowledged.
func Example() {
	dir, err := os.MkdirTemp("", "journal")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, stop := context.WithCancel(context.Background())
	j, opened, err := journal.Open(ctx, journal.Config{Path: filepath.Join(dir, "journal.db")})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("created:", opened.Created)
	ended := make(chan error)
	go func() { ended <- j.Run(ctx) }()

	// One frame with the updates 1 to 3, and in the same transaction what has been reported so far.
	err = j.Append(ctx, journal.Write{
		Stream:  "attempt-1",
		Entries: []journal.Entry{{First: 1, Last: 3, Data: []byte("frame")}},
		Puts:    map[string][]byte{"reported": []byte("3")},
	})
	if err != nil {
		log.Fatal(err)
	}
	entries, err := j.Read("attempt-1", 1, 64<<10)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("to send: %d to %d, %s\n", entries[0].First, entries[0].Last, entries[0].Data)

	if err := j.Append(ctx, journal.Write{Stream: "attempt-1", Ack: 3}); err != nil {
		log.Fatal(err)
	}
	info, _, err := j.Info("attempt-1")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("acked %d, %d entries held, next is %d\n", info.Acked, info.Entries, info.Next)

	stop()
	fmt.Println("run:", <-ended)
	// Output:
	// created: true
	// to send: 1 to 3, frame
	// acked 3, 0 entries held, next is 4
	// run: <nil>
}
