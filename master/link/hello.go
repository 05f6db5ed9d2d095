package link

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// Bounds of a Hello: what a person would ever need, many times over.
const (
	maxSlots    = 10_000
	maxLabels   = 200
	maxFeatures = 200
	maxHeld     = 10_000
	maxFactSize = 1024
	// maxFacts bounds what a slave tells of itself in all. It is read whenever
	// its row is: by each round of dispatch, by each listing.
	maxFacts = 64 << 10
)

// slaveName is what a slave may be called: it appears in URLs, metrics and
// shell commands.
var slaveName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// CheckSlaveName says what is wrong with a slave's name, before it says Hello.
func CheckSlaveName(name string) error {
	if !slaveName.MatchString(name) {
		return fmt.Errorf("slave name %.80q: use 1 to 63 letters, digits, dots, dashes and underscores, the first a letter or digit", name)
	}
	return nil
}

// checkHello refuses what cannot be right, with words a person can act on.
func checkHello(h *holdfastv1.Hello) error {
	bad := func(format string, args ...any) error {
		return rpcerr.New(rpcerr.BadHello, "Hello refused: "+format, args...)
	}
	if err := CheckSlaveName(h.GetSlaveName()); err != nil {
		return bad("%v", err)
	}
	for _, id := range []struct{ what, id string }{
		{"instance id", h.GetInstanceId()}, {"journal id", h.GetJournalId()}, {"store id", h.GetStoreId()},
	} {
		if !validID(id.id) && (id.id != "" || id.what != "store id") { // no store yet
			return bad("%s %.40q is no ULID", id.what, id.id)
		}
	}
	for _, fact := range []struct{ what, text string }{
		{"boot id", h.GetBootId()}, {"fingerprint", h.GetFingerprint()},
		{"agent version", h.GetAgentVersion()}, {"start id", h.GetStartId()},
	} {
		if !plain(fact.text) {
			return bad("%s is longer than %d bytes or has control characters", fact.what, maxFactSize)
		}
	}
	switch {
	case h.GetIncarnation() == 0 || h.GetIncarnation() > maxSeq:
		return bad("incarnation %d: they start at 1", h.GetIncarnation())
	case h.GetBootId() == "":
		return bad("boot id is missing")
	case h.GetSlots() > maxSlots:
		return bad("%d slots; at most %d", h.GetSlots(), maxSlots)
	case h.GetHighestEpoch() > maxSeq:
		return bad("highest epoch %d is out of range", h.GetHighestEpoch())
	case len(h.GetAttempts()) > maxHeld:
		return bad("%d attempts held; at most %d", len(h.GetAttempts()), maxHeld)
	case len(h.GetFeatures()) > maxFeatures || slices.ContainsFunc(h.GetFeatures(), func(f string) bool { return !plain(f) }):
		return bad("more than %d features, or one that is too long", maxFeatures)
	}
	if n := factsSize(h); n > maxFacts {
		return bad("labels, host facts and features have %d bytes in all; at most %d", n, maxFacts)
	}
	for what, facts := range map[string]map[string]string{"labels": h.GetLabels(), "host facts": h.GetHost()} {
		if len(facts) > maxLabels {
			return bad("%d %s; at most %d", len(facts), what, maxLabels)
		}
		for k, v := range facts {
			if k == "" || !plain(k) || !plain(v) {
				return bad("%s: %.80q is empty, longer than %d bytes or has control characters", what, k, maxFactSize)
			}
		}
	}
	return checkHeld(h.GetAttempts(), bad)
}

// factsSize is the length of all that a slave tells of itself in maps and lists.
func factsSize(h *holdfastv1.Hello) (n int) {
	for _, f := range h.GetFeatures() {
		n += len(f)
	}
	for _, facts := range []map[string]string{h.GetLabels(), h.GetHost()} {
		for k, v := range facts {
			n += len(k) + len(v)
		}
	}
	return n
}

// checkHeld checks what a slave says it holds.
func checkHeld(held []*holdfastv1.HeldAttempt, bad func(string, ...any) error) error {
	seen := make(map[string]bool, len(held))
	for _, a := range held {
		id := a.GetAttemptId()
		switch {
		case !validID(id):
			return bad("held attempt %.40q is no ULID", id)
		case seen[id]:
			return bad("attempt %s is held twice", id)
		case a.GetNextSeq() > maxSeq || a.GetFirstHeldSeq() > a.GetNextSeq():
			return bad("attempt %s: updates %d to %d are held", id, a.GetFirstHeldSeq(), a.GetNextSeq())
		}
		seen[id] = true
	}
	return nil
}

// plain reports whether a fact is short and fit for a line of text.
func plain(s string) bool {
	return len(s) <= maxFactSize && !strings.ContainsFunc(s, unicode.IsControl)
}

// slaveOf translates a checked Hello to the store's row.
func slaveOf(h *holdfastv1.Hello) store.Slave {
	labels := maps.Clone(h.GetLabels())
	if labels == nil {
		labels = make(map[string]string)
	}
	// Built-in labels; a slave cannot pretend to be another host by label.
	for _, k := range []string{"os", "arch", "hostname"} {
		if v := h.GetHost()[k]; v != "" {
			labels[k] = v
		}
	}
	return store.Slave{
		Instance:     lifecycle.InstanceID(h.GetInstanceId()),
		Name:         h.GetSlaveName(),
		Incarnation:  h.GetIncarnation(),
		BootID:       h.GetBootId(),
		Fingerprint:  h.GetFingerprint(),
		JournalID:    h.GetJournalId(),
		AgentVersion: h.GetAgentVersion(),
		Features:     h.GetFeatures(),
		Labels:       labels,
		Host:         h.GetHost(),
		Slots:        int(h.GetSlots()),
	}
}

// holds tells a Connect what the slave holds: which attempts, and for those it
// has numbered updates of, where their streams stand (P-back, P-diverged).
func holds(op *store.Connect, h *holdfastv1.Hello) {
	op.HeldNext = make(map[lifecycle.AttemptID]lifecycle.Seq)
	op.HeldChain = make(map[lifecycle.AttemptID]uint32)
	for _, a := range h.GetAttempts() {
		id := lifecycle.AttemptID(a.GetAttemptId())
		op.Held = append(op.Held, id)
		if next := a.GetNextSeq(); next > 0 {
			op.HeldNext[id] = lifecycle.Seq(next)
			op.HeldChain[id] = a.GetChainCrc()
		}
	}
}

// commonFeatures is the intersection, sorted: features are agreed by name,
// never by comparing versions (P-feature).
func commonFeatures(a, b []string) []string {
	var both []string
	for _, f := range a {
		if slices.Contains(b, f) {
			both = append(both, f)
		}
	}
	slices.Sort(both)
	return both
}

func describeHello(h *holdfastv1.Hello) string {
	return fmt.Sprintf("%s on %s (instance %s, incarnation %d)", h.GetSlaveName(),
		strings.TrimSpace(h.GetHost()["hostname"]), h.GetInstanceId(), h.GetIncarnation())
}
