package slave

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"path/filepath"

	holdfastv1 "holdfast/proto/holdfast/v1"
)

// What BuildSpec.workspace may be; empty means attempt.
const (
	workspaceAttempt = "attempt"
	workspaceKept    = "kept"
)

// keptName is the workspace that builds of this name share, one after another;
// empty if the attempt has one of its own.
func keptName(spec *holdfastv1.BuildSpec) string {
	if spec.GetWorkspace() == workspaceKept {
		return spec.GetName()
	}
	return ""
}

// workspacePath is where an attempt's steps run.
func workspacePath(dir string, meta *attemptMeta) string {
	if name := keptName(meta.spec); name != "" {
		// Escaped, so that a name cannot leave the directory or be one of ours.
		escaped := url.PathEscape(name)
		if len(escaped) > 200 { // a file name has room for 255 bytes
			sum := sha256.Sum256([]byte(name))
			escaped = escaped[:100] + "-" + hex.EncodeToString(sum[:16])
		}
		return filepath.Join(dir, "kept", "b-"+escaped)
	}
	return filepath.Join(dir, "work", meta.Attempt)
}

// removeWorkspace removes the workspace of an attempt that has ended; a kept
// one stays. Nothing of the attempt is alive any more.
func removeWorkspace(dir string, meta *attemptMeta) error {
	if keptName(meta.spec) != "" {
		return nil
	}
	return removeTree(workspacePath(dir, meta))
}
