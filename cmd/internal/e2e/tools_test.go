package e2e

import (
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/journal/journaltest"
)

// shell runs a script, in which the farm is known as STORE (what builds.php takes),
// FILES (the directory of an embedded store) and PGURL.
func (f *farm) shell(script string) (string, error) {
	f.t.Helper()
	dir := filepath.Join(f.dir, "master")
	store := dir
	if f.store != "" {
		u, err := url.Parse(f.store)
		if err != nil {
			f.t.Fatal(err)
		}
		store = fmt.Sprintf("pgsql:host=%s;port=%s;dbname=%s;user=%s", u.Query().Get("host"), u.Query().Get("port"), strings.TrimPrefix(u.Path, "/"), u.User.Username())
	}
	cmd := exec.CommandContext(f.t.Context(), "bash", "-c", script)
	cmd.Dir = filepath.Join("..", "..", "..")
	cmd.Env = append(cmd.Environ(), "STORE="+store, "FILES="+dir, "PGURL="+f.store)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (f *farm) tool(script string) string {
	f.t.Helper()
	out, err := f.shell(script)
	if err != nil {
		f.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

// The store is an interface (master/store/SCHEMA.md). The shells of the databases and a PHP script with PDO read the
// views, and what they write is carried out by a master, within a second.
func TestForeignTools(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"psql", "sqlite3", "php"} {
		if _, err := exec.LookPath(tool); err != nil {
			journaltest.SkipOrFail(t, "no "+tool)
		}
	}
	if out, err := exec.Command("php", "-m").Output(); err != nil || !strings.Contains(string(out), "pdo_pgsql") || !strings.Contains(string(out), "pdo_sqlite") {
		journaltest.SkipOrFail(t, "no PDO for both databases in php")
	}
	onBothStores(t, func(t *testing.T, store string) {
		f := newFarmOn(t, store)
		read, write := `sqlite3 -readonly -cmd '.timeout 5000' $FILES/holdfast.db`, `sqlite3 -cmd '.timeout 5000' $FILES/commands.db`
		if store == "postgres" {
			read = `psql -X -A -t -q -v ON_ERROR_STOP=1 "$PGURL" -c`
			write = read
		}
		ids := make([]string, 3)
		for i := range ids {
			ids[i] = strings.TrimSpace(f.do("submit", "--name", fmt.Sprint("b", i), "--reason", "nightly", "--", "true"))
		}
		me := f.tool(read + ` "SELECT DISTINCT submitter FROM v1_builds"`)
		if got := f.tool(read + ` "SELECT name, state, reason FROM v1_builds ORDER BY number"`); got != "b0|queued|nightly\nb1|queued|nightly\nb2|queued|nightly" {
			t.Errorf("v1_builds:\n%s", got)
		}
		insert := func(id, rest string) {
			t.Helper()
			began := time.Now()
			f.tool(write + ` "INSERT INTO v1_commands (id, command, build_id, args, who, reason) VALUES ('` + id + `', ` + rest + `)"`)
			eventually(t, 10*time.Second, "an answer to "+id, func() bool {
				return f.tool(write+` "SELECT state FROM v1_commands WHERE id = '`+id+`'"`) != "new"
			})
			if took := time.Since(began); took > time.Second {
				t.Errorf("%s is answered after %v", id, took)
			}
		}
		answer := func(id string) string {
			t.Helper()
			return f.tool(write + ` "SELECT state, coalesce(answer, refusal) FROM v1_commands WHERE id = '` + id + `'"`)
		}
		insert("one", `'cancel', '`+ids[0]+`', NULL, 'ann', 'changed my mind'`)
		if got := answer("one"); got != `done|{"build_id":"`+ids[0]+`","state":"cancelled"}` {
			t.Errorf("cancel: %s", got)
		}
		if b := f.show(ids[0]); b.State != "cancelled" {
			t.Errorf("build %+v", b)
		}
		insert("two", `'reprioritise', '`+ids[1]+`', '{\"priority\": 9}', 'ann', 'release'`)
		if got := f.tool(read + ` "SELECT priority FROM v1_builds WHERE id = '` + ids[1] + `'"`); got != "9" {
			t.Errorf("priority %s: %s", got, answer("two"))
		}
		insert("three", `'submit', NULL, '{\"spec\": {\"name\": \"from-a-tool\", \"steps\": [{\"run\": \"true\"}]}}', 'ann', 'because'`)
		if got := f.tool(read + ` "SELECT submitter, reason, state FROM v1_builds WHERE name = 'from-a-tool'"`); got != "ann|because|queued" {
			t.Errorf("submitted %s: %s", got, answer("three"))
		}
		for id, bad := range map[string][2]string{
			"b1": {`'cancel', 'nobody', NULL, 'ann', 'why'`, "is no build id"},
			"b2": {`'cancel', '01AAAAAAAAAAAAAAAAAAAAAAAA', NULL, 'ann', 'why'`, "not found"},
			"b3": {`'reprioritise', '` + ids[0] + `', '{\"priority\": 1}', 'ann', 'why'`, "build does not wait"},
			"b4": {`'submit', NULL, 'nonsense', 'ann', 'why'`, "args: expected JSON"},
			"b5": {`'destroy', NULL, NULL, 'ann', 'why'`, "no such command"},
		} {
			insert(id, bad[0])
			if got := answer(id); !strings.HasPrefix(got, "refused|") || !strings.Contains(got, bad[1]) {
				t.Errorf("%s: %s, want %s", id, got, bad[1])
			}
		}
		list := f.tool(`php examples/php/builds.php "$STORE" ` + me)
		if lines := strings.Split(list, "\n"); len(lines) != 2 || !strings.HasPrefix(lines[0], ids[1]+"  b1  since 20") || !strings.HasPrefix(lines[1], ids[2]) {
			t.Errorf("PHP lists:\n%s", list)
		}
		if got := f.tool(`php examples/php/builds.php "$STORE" ` + me + ` cancel ` + ids[2]); got != "done" || f.show(ids[2]).State != "cancelled" {
			t.Errorf("PHP cancels: %s", got)
		}
		if got, err := f.shell(`php examples/php/builds.php "$STORE" ` + me + ` cancel ` + ids[2][:25] + `Z`); err == nil || !strings.HasPrefix(got, "refused: ") {
			t.Errorf("PHP cancels nothing: %s, %v", got, err)
		}
	})
}
