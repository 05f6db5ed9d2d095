package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"holdfast/master/notify"
	"holdfast/proto/rpcerr"
)

const (
	// sseComment is how often a stream with nothing to say says so: proxies, and ours at the
	// other end of a dead link, give up on silence.
	sseComment = 15 * time.Second
	// sseGrace is how long a reader may take nothing before it is dropped. It resumes by
	// itself, with the last number it has.
	sseGrace = 10 * time.Second
	sseRetry = time.Second // what browsers are told to wait before they connect again
)

// events serves GET /api/v1/events, Server-Sent Events; see docs/notify.md. The source of
// the format is the HTML standard, section 9.2.
func (s *Server) events(w http.ResponseWriter, req *http.Request) {
	filter, from, err := eventsRequest(req)
	if err != nil {
		httpError(w, err)
		return
	}
	over, err := s.Follow("sse")
	if err != nil {
		httpError(w, err)
		return
	}
	defer over()
	ctx := req.Context()
	reader, err := s.cfg.Feed.Subscribe(ctx, filter, from)
	reset := errors.Is(err, notify.ErrReset)
	if reset {
		// Another status would make a browser give up for good.
		reader, err = s.cfg.Feed.Subscribe(ctx, filter, notify.Position{Now: true})
	}
	if err != nil {
		httpError(w, refusal(err))
		return
	}
	defer reader.Close()
	out := &sseWriter{w: w, control: http.NewResponseController(w)}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would keep lines back
	// The server's limit is for requests that have an end.
	if err := out.control.SetReadDeadline(time.Time{}); err != nil {
		httpError(w, rpcerr.New(rpcerr.Internal, "%v", err))
		return
	}
	kind := "opened"
	if reset {
		kind = "reset"
	}
	out.printf("retry: %d\nid: %d\nevent: %s\ndata: {\"newest\":%d,\"store_id\":%q}\n\n",
		sseRetry.Milliseconds(), reader.At(), kind, reader.Newest, s.store.ID())
	out.flush()
	for out.err == nil {
		next, cancel := context.WithTimeout(ctx, sseComment)
		items, err := reader.Next(next)
		cancel()
		switch {
		case ctx.Err() != nil, errors.Is(err, notify.ErrReset):
			return // it connects again, and is told then
		case err != nil && next.Err() != nil:
			out.printf(":\n\n")
		case err != nil:
			return
		}
		for _, it := range items {
			out.item(it)
		}
		out.flush()
	}
}

// eventsRequest reads what a request asks for: ?since=N&topic=T&build=ID, the last two
// repeatedly. Last-Event-ID, which is what a browser sends when it connects again, comes
// before since.
func eventsRequest(req *http.Request) (notify.Filter, notify.Position, error) {
	q := req.URL.Query()
	for name := range q {
		switch name {
		case "since", "topic", "build":
		default:
			return notify.Filter{}, notify.Position{}, rpcerr.New(rpcerr.Invalid, "no such parameter: %.40q; there are since, topic and build", name)
		}
	}
	from := notify.Position{Now: true}
	since, what := q.Get("since"), "since"
	if last := req.Header.Get("Last-Event-ID"); last != "" {
		since, what = last, "Last-Event-ID"
	}
	if since != "" {
		n, err := strconv.ParseUint(since, 10, 64)
		if err != nil {
			return notify.Filter{}, from, rpcerr.New(rpcerr.Invalid, "%s: expected the number of an event, found %.40q", what, since)
		}
		from = notify.Position{Since: n}
	}
	f, err := filterOf(q["topic"], q["build"])
	return f, from, err
}

// filterOf checks what somebody wants to hear of.
func filterOf(topics, builds []string) (notify.Filter, error) {
	f := notify.Filter{Topics: topics}
	for _, text := range builds {
		id, err := buildID(text)
		if err != nil {
			return f, err
		}
		f.Builds = append(f.Builds, id)
	}
	if err := f.Check(); err != nil {
		return f, rpcerr.New(rpcerr.Invalid, "%v", err)
	}
	return f, nil
}

// sseWriter writes a stream until the first error.
type sseWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	err     error
}

func (o *sseWriter) item(it notify.Item) {
	if it.Event == nil {
		o.printf("id: %d\nevent: gap\ndata: {\"from\":%d,\"to\":%d}\n\n", it.Missed.To, it.Missed.From, it.Missed.To)
		return
	}
	// Without a name of its own, so that a browser's onmessage gets it, whatever the topic.
	o.printf("id: %d\ndata: %s\n\n", it.Event.N, it.Event.JSON())
}

func (o *sseWriter) printf(format string, args ...any) {
	if o.err == nil {
		o.err = o.control.SetWriteDeadline(time.Now().Add(sseGrace))
	}
	if o.err == nil {
		_, o.err = fmt.Fprintf(o.w, format, args...)
	}
}

func (o *sseWriter) flush() {
	if o.err == nil {
		o.err = o.control.Flush()
	}
}

// httpError answers with a refusal in words.
func httpError(w http.ResponseWriter, err error) {
	code, text := http.StatusServiceUnavailable, err.Error()
	if refused, ok := rpcerr.From(err); ok {
		text = refused.Message
		switch refused.Reason {
		case rpcerr.Invalid:
			code = http.StatusBadRequest
		case rpcerr.NotFound:
			code = http.StatusNotFound
		case rpcerr.Internal:
			code = http.StatusInternalServerError
		}
	}
	http.Error(w, text, code)
}
