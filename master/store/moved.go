package store

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Keys of store_meta that say that a store was moved, or is being moved, to another
// database (package transfer). They stay where they are: none of them is moved.
const (
	MetaTransfer = "transfer"          // a Transfer: half a store, which no master may open
	MetaPosition = "transfer_position" // how far it has come
	MetaMovedTo  = "moved_to"          // where its data is now; no master may open it
	MetaFrom     = "moved_from"        // a Transfer that is over: where its data came from
)

// MovedKeys are all of them.
var MovedKeys = []string{MetaTransfer, MetaPosition, MetaMovedTo, MetaFrom}

// Transfer is the value of MetaTransfer and MetaFrom, as JSON.
type Transfer struct {
	Source  string `json:"source"`  // id of the store that is moved
	From    string `json:"from"`    // where it is, without a password
	At      string `json:"at"`      // when it began or was found good, RFC 3339
	Version string `json:"version"` // of the holdfast that did it
	// SHA256 is the digest of the small tables when it began, of all when it was over.
	SHA256 string `json:"sha256"`
}

// Movable reports why a master must not open a store with this store_meta:
// ErrHalfMoved or ErrMoved. name is what `holdfast migrate-store` calls the store.
func Movable(meta map[string]string, name string) error {
	if mark, ok := meta[MetaTransfer]; ok {
		var t Transfer
		if err := json.Unmarshal([]byte(mark), &t); err != nil {
			return fmt.Errorf("%w: its mark cannot be read: %w", ErrHalfMoved, err)
		}
		return fmt.Errorf("%w: run `holdfast migrate-store --from %s --to %s` again, which goes on where it stopped, or go on with %s and delete this one",
			ErrHalfMoved, quoted(t.From), quoted(name), t.From)
	}
	if to, ok := meta[MetaMovedTo]; ok {
		return fmt.Errorf("%w: its builds are in %s now; start the master there. Only one of the two may ever be used; to go on with this one all the same, `holdfast migrate-store --undo %s`",
			ErrMoved, to, quoted(name))
	}
	return nil
}

// quoted is a word as a shell takes it.
func quoted(word string) string {
	if !strings.ContainsAny(word, " \t\"'`$&|;<>()*?[]#~!\\") {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
