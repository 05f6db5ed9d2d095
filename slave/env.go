package slave

import (
	"slices"
	"strconv"
	"strings"
)

// envAllowed are the variables a step gets from the agent's environment
// (DESIGN §7); a name that ends in * is a prefix. Nothing else leaks into a
// build, so that two slaves run it alike.
var envAllowed = []string{
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR", "TERM",
	"http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy",
	"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY",
	"SSL_CERT_FILE", "SSL_CERT_DIR",
	"GO*", "CGO_ENABLED", "CC", "CXX",
	"XDG_CACHE_HOME", "CCACHE_*", "SCCACHE_*", "CARGO_HOME", "RUSTUP_HOME", "npm_config_cache", "PIP_CACHE_DIR",
}

// stepEnv builds the environment of an attempt's steps: what is allowed of
// environ, then HOLDFAST_*. HOLDFAST_STEP and the step's own variables are
// added by the runner.
func stepEnv(environ, allow []string, meta *attemptMeta, workspace, slave string) []string {
	var env []string
	for _, kv := range environ {
		name, _, ok := strings.Cut(kv, "=")
		if ok && !strings.HasPrefix(name, "HOLDFAST_") && (allowed(name, envAllowed) || allowed(name, allow)) {
			env = append(env, kv)
		}
	}
	return append(env,
		"HOLDFAST=1",
		"HOLDFAST_BUILD="+meta.Build,
		"HOLDFAST_BUILD_NAME="+meta.spec.GetName(),
		"HOLDFAST_ATTEMPT="+meta.Attempt,
		"HOLDFAST_ATTEMPT_NUMBER="+strconv.FormatUint(uint64(meta.Number), 10),
		"HOLDFAST_SLAVE="+slave,
		"HOLDFAST_WORKSPACE="+workspace,
	)
}

func allowed(name string, list []string) bool {
	return slices.ContainsFunc(list, func(pattern string) bool {
		if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
			return strings.HasPrefix(name, prefix)
		}
		return name == pattern
	})
}
