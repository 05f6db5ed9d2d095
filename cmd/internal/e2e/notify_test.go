package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
)

// seen is what one reader has heard: the topic of each event, by number less one.
type seen struct {
	mu     sync.Mutex
	topics []string
	bodies []string // the same events, as JSON
	wrong  string   // the first thing that a reader could have missed or had twice
}

// hear takes an event in, and reports whether it is the next one.
func (s *seen) hear(n uint64, topic string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n != uint64(len(s.topics)+1) {
		if s.wrong == "" {
			s.wrong = fmt.Sprintf("event %d %s after event %d", n, topic, len(s.topics))
		}
		return false
	}
	s.topics = append(s.topics, topic)
	return true
}

// event takes in an event as JSON.
func (s *seen) event(text []byte) {
	var e struct {
		N     uint64
		Topic string
	}
	var all map[string]any
	if err := errors.Join(json.Unmarshal(text, &e), json.Unmarshal(text, &all)); err != nil {
		s.hear(0, string(text))
		return
	}
	body, _ := json.Marshal(all) // it came out of JSON
	if s.hear(e.N, e.Topic) {
		s.mu.Lock()
		s.bodies = append(s.bodies, string(body))
		s.mu.Unlock()
	}
}

func (s *seen) newest() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.topics)
}

// overTCP follows the service at addr, and goes on with the last number whenever the
// connection breaks. Each of its own lasts for some events only.
func (s *seen) overTCP(ctx context.Context, addr string) {
	for ctx.Err() == nil {
		func() {
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", addr)
			if err != nil {
				time.Sleep(10 * time.Millisecond)
				return
			}
			defer c.Close()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			fmt.Fprintf(c, "SUB * SINCE %d\n", s.newest())
			in := bufio.NewScanner(c)
			in.Buffer(nil, 1<<20)
			for left := 1 + rand.IntN(200); left > 0 && in.Scan(); {
				words := strings.SplitN(in.Text(), " ", 4)
				if words[0] != "EVT" || len(words) != 4 {
					if words[0] == "ERR" || words[0] == "GAP" {
						s.hear(0, in.Text())
					}
					continue
				}
				if begin := fmt.Sprintf(`{"n":%s,`, words[1]); !strings.HasPrefix(words[3], begin) || !strings.Contains(words[3], `"topic":"`+words[2]+`"`) {
					s.hear(0, in.Text())
				}
				s.event([]byte(words[3]))
				left--
			}
		}()
	}
}

// overHTTP does the same with Server-Sent Events.
func (s *seen) overHTTP(ctx context.Context, addr string) {
	for ctx.Err() == nil {
		func() {
			some, cancel := context.WithCancel(ctx)
			defer cancel()
			req, err := http.NewRequestWithContext(some, http.MethodGet, "http://"+addr+"/api/v1/events?since=0", nil)
			if err != nil {
				s.hear(0, err.Error())
				return
			}
			if n := s.newest(); n > 0 {
				req.Header.Set("Last-Event-ID", fmt.Sprint(n))
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				time.Sleep(10 * time.Millisecond)
				return
			}
			defer resp.Body.Close()
			in := bufio.NewScanner(resp.Body)
			in.Buffer(nil, 1<<20)
			named := false
			for left := 1 + rand.IntN(200); left > 0 && in.Scan(); {
				line := in.Text()
				if name, ok := strings.CutPrefix(line, "event: "); ok {
					if named = true; name != "opened" {
						s.hear(0, line)
					}
				}
				data, ok := strings.CutPrefix(line, "data: ")
				if line == "" {
					named = false
				}
				if !ok || named {
					continue
				}
				s.event([]byte(data))
				left--
			}
		}()
	}
}

// overCommand follows with holdfast events -f.
func (s *seen) overCommand(ctx context.Context, f *farm) {
	cmd := exec.CommandContext(ctx, binary, "events", "-f", "--since", "0", "--json", "--addr", f.addr)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		s.hear(0, err.Error())
		return
	}
	d := json.NewDecoder(out)
	for {
		var text json.RawMessage
		if err := d.Decode(&text); err != nil {
			if ctx.Err() == nil && err != io.EOF {
				s.hear(0, err.Error())
			}
			break
		}
		s.event(text)
	}
	_ = cmd.Wait() // it is killed at the end
}

// P-event: lines over TCP, Server-Sent Events and Watch, at each master, carry one sequence, and
// so do the views: in commit order, each event once and none left out, over broken connections,
// beside transactions of other programs, short, long and open, and over killed sequencers.
func TestOneSequence(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store string) {
		f := newFarmOn(t, store, "--notify", "127.0.0.1:0")
		f.slave("b1", "--slots", "2")
		db := f.views()
		ctx, cancel := context.WithCancel(t.Context())
		var readers sync.WaitGroup
		defer readers.Wait()
		defer cancel()
		all := make(map[string]*seen)
		follow := func(name string, how func(*seen)) {
			s := &seen{}
			all[name] = s
			readers.Go(func() { how(s) })
		}
		for i, m := range f.masters() {
			follow(fmt.Sprint("TCP ", i+1), func(s *seen) { s.overTCP(ctx, m.notify) })
			follow(fmt.Sprint("SSE ", i+1), func(s *seen) { s.overHTTP(ctx, m.http) })
			follow(fmt.Sprint("Watch ", i+1), func(s *seen) { s.overCommand(ctx, m) })
		}
		var trouble sync.WaitGroup
		over := make(chan struct{})
		if store == "postgres" {
			disturb(t, f.store, over, &trouble)
		}
		const builds = 12
		var submitters sync.WaitGroup
		for i := range builds {
			m := f.masters()[i%len(f.masters())]
			submitters.Go(func() { m.do("run", "--", "sh", "-c", "echo one; sleep 0.2; echo two") })
		}
		submitters.Wait()
		close(over)
		trouble.Wait()
		// The end of each slave's attempts may still be on its way.
		newest := 0
		eventually(t, 20*time.Second, "no more events", func() bool {
			before := newest
			newest = count(t, db, `SELECT count(*) FROM v1_events`)
			time.Sleep(300 * time.Millisecond)
			return newest == before
		})
		var want []string
		for i, row := range query(t, db, `SELECT n, topic FROM v1_events ORDER BY n`) {
			if row[0] != fmt.Sprint(i+1) {
				t.Fatalf("row %d of v1_events is event %s", i+1, row[0])
			}
			want = append(want, row[1])
		}
		for name, s := range all {
			eventually(t, 12*time.Second, name+" has heard all", func() bool { return s.newest() >= len(want) || s.wrong != "" })
			s.mu.Lock()
			if s.wrong != "" || !slices.Equal(s.topics[:min(len(s.topics), len(want))], want) {
				t.Errorf("%s: %s; %d events of %d", name, s.wrong, len(s.topics), len(want))
			}
			s.mu.Unlock()
		}
		bodies := all["Watch 1"].bodies
		for name, s := range all {
			if diff := cmp.Diff(bodies[:len(want)], s.bodies[:min(len(s.bodies), len(want))]); diff != "" {
				t.Errorf("what Watch 1 and %s say of the same events (-Watch 1 +%s):\n%.2000s", name, name, diff)
			}
		}
		t.Logf("figure: events that %d readers on %s heard alike = %d", len(all), store, len(want))
	})
}

// disturb does until over what other programs may do to a database, and kills sequencers.
func disturb(t *testing.T, url string, over <-chan struct{}, done *sync.WaitGroup) {
	ctx := t.Context()
	insert := func(tx pgx.Tx, topic string) error {
		_, err := tx.Exec(ctx, `INSERT INTO events (at_us, topic, who, why, data) VALUES ((extract(epoch FROM clock_timestamp()) * 1000000)::bigint, $1, 'test', '', '{}')`, topic)
		return err
	}
	each := func(pause time.Duration, do func(conn *pgx.Conn) error) {
		done.Go(func() {
			conn, err := pgx.Connect(ctx, url)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close(context.WithoutCancel(ctx))
			for {
				if err := do(conn); err != nil {
					t.Error(err)
					return
				}
				select {
				case <-over:
					return
				case <-time.After(pause):
				}
			}
		})
	}
	for name, length := range map[string]time.Duration{"note.short": 0, "note.longer": 100 * time.Millisecond, "note.long": time.Second} {
		each(20*time.Millisecond, func(conn *pgx.Conn) error {
			tx, err := conn.Begin(ctx)
			if err != nil {
				return err
			}
			for range 3 {
				if err := insert(tx, name); err != nil {
					return err
				}
				time.Sleep(length / 3)
			}
			return tx.Commit(ctx)
		})
	}
	done.Go(func() { // one that stays open all the while, and is committed last
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(context.WithoutCancel(ctx))
		tx, err := conn.Begin(ctx)
		if err == nil {
			err = insert(tx, "note.open")
		}
		<-over
		if err == nil {
			err = tx.Commit(ctx)
		}
		if err != nil {
			t.Error(err)
		}
	})
	each(100*time.Millisecond, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'holdfast' AND query LIKE '%counters%' AND state <> 'idle'`)
		return err
	})
}
