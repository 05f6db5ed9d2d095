// Package spec holds what a build shall do: the domain type Spec, the reader of
// build files, and the form in which a store keeps it.
//
//	build.yaml ─ Parse ──────────┐              ┌─ Marshal ─► store's column
//	wire message ─ edge, then    ├─► *Spec ─────┤
//	  SetDefaults and Validate ──┤              └─ Policy ──► package retry
//	argv ─ FromCommand ──────────┘   ▲
//	                                 └─ Unmarshal ◄─ store's column
//
// # Guarantees
//
//   - All or nothing: Parse returns a Spec that Validate accepts, or no Spec
//     and every problem it found, each with line, column, what was expected and
//     what was there.
//   - There is one set of checks (check.go). Parse and Validate differ only in
//     that Parse knows where in the file a value stands.
//   - A Spec from Parse or FromCommand has its defaults filled in: in it, as in
//     the file, 0 means zero.
//   - Unmarshal(Marshal(s)) gives s again, and the bytes for one Spec are always
//     the same.
//
// # How a build file is read
//
// A build file is one YAML document; JSON is YAML too, so the HTTP API reads
// its bodies with Parse as well. Values are taken from the text of the file,
// not from YAML's guess at a type:
//
//   - Where text is wanted, a number or a word such as true or yes is the text
//     as it stands in the file: run: 1.10 is the command 1.10 (never 1.1), env:
//     {PORT: 0080} sets 0080. Refusing it would forbid half of all env blocks;
//     guessing loses digits; taking the text does neither. An empty value or
//     null is refused, "" is the way to write an empty text.
//   - Where a number is wanted, only plain decimal digits are one: neither "3"
//     in quotes nor 0x3, 1_000 or 010, which mean something else to the next
//     reader.
//   - A duration is numbers with units: 90s, 1h30m, 1.5h, 2d; a bare number is
//     refused, for nobody knows its unit, except 0.
//   - timeout, silence and stop_on_slave_after must be above zero; leaving them
//     out means no limit. A limit of zero is never what somebody wanted.
//   - Anchors, aliases, merge keys and tags are refused, with them the bombs
//     that can be made of them. So are unknown and duplicate keys.
//
// # What it does not do
//
// It does not know which labels or slaves exist, so a build that no slave
// matches is valid; it runs no shell, so a run line with a typo is valid too.
//
// # What the caller owes
//
//  1. A Spec built from a wire message: absent numbers take DefaultRetry and
//     DefaultGrace at the edge, then SetDefaults, then Validate.
//  2. Name and step names are for people; make file names from ids, or escape.
//  3. A *Spec that is shared is not changed.
package spec
