package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
	"holdfast/master/spec"
	"holdfast/master/spec/specpb"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// submitOptions are the flags of submit and run.
type submitOptions struct {
	*global
	file       string
	name       string
	reason     string
	env        []string
	requires   []string
	requestKey string
	follow     bool
}

func newSubmit(g *global) *cobra.Command {
	o := &submitOptions{global: g}
	cmd := &cobra.Command{
		Use:   "submit [-f build.yaml] [flags] [-- CMD ARG…]",
		Short: "Queue a build and print its id",
		RunE:  func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args, stdout(cmd)) },
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&o.follow, "follow", false, "follow the build to its end, like run")
	return cmd
}

func newRun(g *global) *cobra.Command {
	o := &submitOptions{global: g, follow: true}
	cmd := &cobra.Command{
		Use:   "run [-f build.yaml] [flags] [-- CMD ARG…]",
		Short: "Queue a build and follow it to its end",
		Long: `Queue a build and follow it to its end. The exit code is the build's:
0 succeeded, 1 failed, 3 cancelled, 4 shelved. Ctrl-C stops following; the
build goes on.`,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args, stdout(cmd)) },
	}
	o.flags(cmd)
	return cmd
}

func (o *submitOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&o.file, "file", "f", "", "build file; - reads standard input")
	f.StringVar(&o.name, "name", "", "name of the build, instead of the file's")
	f.StringVar(&o.reason, "reason", "", "why it is built, instead of the file's")
	f.StringArrayVar(&o.env, "env", nil, "K=V for the environment of every step; may be repeated")
	f.StringArrayVar(&o.requires, "require", nil, "K=V: a label the slave must carry; may be repeated")
	f.StringVar(&o.requestKey, "request-key", "", "two requests with the same key make one build")
}

func (o *submitOptions) run(ctx context.Context, args []string, out io.Writer) error {
	s, err := o.spec(args)
	if err != nil {
		return usage(err)
	}
	return o.with(ctx, func(c *client.Client) error {
		resp, err := c.Submit(ctx, &holdfastv1.SubmitBuildRequest{
			RequestKey: o.requestKey, Spec: specpb.Encode(s), Submitter: person(),
		})
		if err != nil {
			return err
		}
		id := resp.GetBuildId()
		if o.follow {
			return follow(ctx, c, id, out, o.json)
		}
		if o.json {
			return printJSON(out, map[string]string{"id": id})
		}
		_, err = fmt.Fprintln(out, id)
		return err
	})
}

// spec reads the build file or makes a spec of the command line. Nothing is
// submitted unless all of it is right.
func (o *submitOptions) spec(args []string) (*spec.Spec, error) {
	var s *spec.Spec
	switch {
	case o.file != "" && len(args) > 0:
		return nil, errors.New("give a build file or a command, not both")
	case o.file != "":
		data, err := readInput(o.file)
		if err != nil {
			return nil, err
		}
		if s, err = spec.Parse(o.file, data); err != nil {
			return nil, err
		}
		if o.name != "" {
			s.Name = o.name
		}
		if o.reason != "" {
			s.Reason = o.reason
		}
	case len(args) > 0:
		s = spec.FromCommand(o.name, o.reason, args)
	default:
		return nil, errors.New("nothing to build: give -f build.yaml or -- CMD ARG…")
	}
	env, err := pairs("--env", o.env)
	if err != nil {
		return nil, err
	}
	for i := range s.Steps {
		for k, v := range env {
			if s.Steps[i].Env == nil {
				s.Steps[i].Env = make(map[string]string)
			}
			s.Steps[i].Env[k] = v
		}
	}
	requires, err := pairs("--require", o.requires)
	if err != nil {
		return nil, err
	}
	for k, v := range requires {
		if s.Requires == nil {
			s.Requires = make(map[string]string)
		}
		s.Requires[k] = v
	}
	return s, s.Validate()
}

// readInput reads a build file, no more of it than a build file may have.
func readInput(path string) ([]byte, error) {
	f := os.Stdin
	if path != "-" {
		var err error
		if f, err = os.Open(path); err != nil {
			return nil, err
		}
		defer f.Close()
	}
	data, err := io.ReadAll(io.LimitReader(f, spec.MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

// pairs parses K=V flags.
func pairs(flag string, list []string) (map[string]string, error) {
	m := make(map[string]string, len(list))
	for _, kv := range list {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("%s %q is not K=V", flag, kv)
		}
		m[k] = v
	}
	return m, nil
}
