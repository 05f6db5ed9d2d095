package link

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// Bounds of a Hello: what a person would ever need, many times over.
const (
	maxSlots    = 10_000
	maxLabels   = 200
	maxHeld     = 100_000
	maxFactSize = 1024
)

// slaveName is what a slave may be called: it appears in URLs, metrics and
// shell commands.
var slaveName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// checkHello refuses what cannot be right, with words a person can act on.
func checkHello(h *holdfastv1.Hello) error {
	bad := func(format string, args ...any) error {
		return rpcerr.New(rpcerr.BadHello, "Hello refused: "+format, args...)
	}
	if !slaveName.MatchString(h.GetSlaveName()) {
		return bad("slave name %.80q: use 1 to 63 letters, digits, dots, dashes and underscores", h.GetSlaveName())
	}
	for what, id := range map[string]string{"instance id": h.GetInstanceId(), "journal id": h.GetJournalId()} {
		if _, err := ulid.ParseStrict(id); err != nil {
			return bad("%s %.80q is no ULID", what, id)
		}
	}
	switch {
	case h.GetIncarnation() == 0:
		return bad("incarnations start at 1")
	case h.GetBootId() == "" || len(h.GetBootId()) > maxFactSize:
		return bad("boot id is missing or too long")
	case len(h.GetFingerprint()) > maxFactSize:
		return bad("fingerprint is too long")
	case h.GetSlots() > maxSlots:
		return bad("%d slots; at most %d", h.GetSlots(), maxSlots)
	case h.GetHighestEpoch() > 1<<62:
		return bad("highest epoch %d is out of range", h.GetHighestEpoch())
	case len(h.GetAttempts()) > maxHeld:
		return bad("%d attempts held; at most %d", len(h.GetAttempts()), maxHeld)
	}
	for what, facts := range map[string]map[string]string{"labels": h.GetLabels(), "host facts": h.GetHost()} {
		if len(facts) > maxLabels {
			return bad("%d %s; at most %d", len(facts), what, maxLabels)
		}
		for k, v := range facts {
			if k == "" || len(k)+len(v) > maxFactSize {
				return bad("%s: %.80q is empty or too long", what, k)
			}
		}
	}
	for _, a := range h.GetAttempts() {
		if _, err := ulid.ParseStrict(a.GetAttemptId()); err != nil {
			return bad("held attempt %.80q is no ULID", a.GetAttemptId())
		}
	}
	return nil
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

func heldAttempts(h *holdfastv1.Hello) []lifecycle.AttemptID {
	held := make([]lifecycle.AttemptID, 0, len(h.GetAttempts()))
	for _, a := range h.GetAttempts() {
		held = append(held, lifecycle.AttemptID(a.GetAttemptId()))
	}
	return held
}

// commonFeatures is the intersection, sorted: features are agreed by name,
// never by comparing versions.
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
