package notify

import (
	"fmt"
	"slices"
	"strings"

	"holdfast/master/lifecycle"
)

// Limits of a Filter.
const (
	maxTopics = 100
	maxBuilds = 100
	maxTopic  = 200 // bytes
)

// Filter selects events: those of one of Topics, if there are any, and of one of
// Builds, if there are any. The zero value selects all.
type Filter struct {
	// Topics are prefixes that end at a dot: "build" selects "build.queued", not
	// "builder.x". "*" selects all.
	Topics []string
	Builds []lifecycle.BuildID
}

// Selects reports whether the filter asks for e.
func (f *Filter) Selects(e *lifecycle.Event) bool {
	if len(f.Builds) > 0 && !slices.Contains(f.Builds, e.Build) {
		return false
	}
	if len(f.Topics) == 0 {
		return true
	}
	for _, t := range f.Topics {
		if t == "*" || strings.HasPrefix(e.Topic, t) && (len(e.Topic) == len(t) || e.Topic[len(t)] == '.') {
			return true
		}
	}
	return false
}

// Check says what is wrong with the topics, or that there is too much of either.
func (f *Filter) Check() error {
	switch {
	case len(f.Topics) > maxTopics:
		return fmt.Errorf("%d topics; at most %d", len(f.Topics), maxTopics)
	case len(f.Builds) > maxBuilds:
		return fmt.Errorf("%d builds; at most %d", len(f.Builds), maxBuilds)
	}
	for _, topic := range f.Topics {
		if err := CheckTopic(topic); err != nil {
			return err
		}
	}
	return nil
}

// CheckTopic says what is wrong with a topic prefix. One that could not be a topic
// would select nothing, for ever.
func CheckTopic(topic string) error {
	word := func(w string) bool {
		return w != "" && !strings.ContainsFunc(w, func(r rune) bool { return (r < 'a' || r > 'z') && r != '_' })
	}
	if topic == "*" || len(topic) <= maxTopic && !slices.ContainsFunc(strings.Split(topic, "."), func(w string) bool { return !word(w) }) {
		return nil
	}
	return fmt.Errorf("%.40q is no topic: expected a prefix such as build or build.shelved, or * for all", topic)
}
