package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
	"holdfast/master/spec"
	"holdfast/master/spec/specpb"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

type submitOptions struct {
	common
	file       string
	name       string
	reason     string
	env        []string
	labels     []string
	requestKey string
	follow     bool
	argv       []string
}

func (o *submitOptions) flags(cmd *cobra.Command) {
	o.common.flags(cmd)
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows CMD belongs to it
	f.StringVarP(&o.file, "file", "f", "", "build `FILE` (YAML or JSON); -: standard input")
	f.StringVar(&o.name, "name", "", "`NAME` of the build, instead of the file's or the command's")
	f.StringVar(&o.reason, "reason", "", "`TEXT`: why it is built")
	f.StringArrayVar(&o.env, "env", nil, "`K=V` for the environment of every step; repeat it")
	f.StringArrayVar(&o.labels, "label", nil, "`K=V` that the slave must have; repeat it")
	f.StringVar(&o.requestKey, "request-key", "", "`KEY` that names this request: the same key again makes no second build")
	_ = cmd.RegisterFlagCompletionFunc("file", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"yaml", "yml", "json"}, cobra.ShellCompDirectiveFilterFileExt
	})
}

func newSubmit(std stdio) *cobra.Command {
	var opts submitOptions
	cmd := command("submit [flags] {-f FILE | [--] CMD ARG…}", "Submit a build and print its id",
		`Submits a build and prints its id, alone. A build file with a mistake is told as
FILE:LINE:COLUMN and nothing is submitted. A lost reply never makes a second build.

  holdfast submit -f build.yaml
  holdfast submit --name hello -- echo hello`,
		nil, func(ctx context.Context, args []string) error {
			opts.argv = args
			return opts.run(ctx, std)
		})
	opts.flags(cmd)
	cmd.Flags().BoolVar(&opts.follow, "follow", false, "follow it to its end, as holdfast run does")
	return cmd
}

func newRun(std stdio) *cobra.Command {
	opts := submitOptions{follow: true}
	cmd := command("run [flags] {-f FILE | [--] CMD ARG…}", "Submit a build and follow it to its end",
		`Submits a build and follows it, over retries and lost connections, until it has ended or
waits on the shelf. Its logs and a line per step go to standard output, the rest to standard
error; with --json the final document of 'show' goes to standard output and all else to
standard error. Ctrl-C stops the following, not the build.

The exit code is the build's: 0 succeeded, 1 failed, 3 cancelled, 4 shelved.`,
		nil, func(ctx context.Context, args []string) error {
			opts.argv = args
			return opts.run(ctx, std)
		})
	opts.flags(cmd)
	return cmd
}

func (o *submitOptions) run(ctx context.Context, std stdio) error {
	build, err := o.build(std.in)
	if err != nil {
		return err
	}
	if err := client.CheckAddr(o.addr); err != nil {
		return err
	}
	req := &holdfastv1.SubmitBuildRequest{
		BuildId: client.NewID(), RequestKey: o.requestKey, Spec: specpb.Encode(build), Submitter: who(),
	}
	return o.withMaster(ctx, std, func(ctx context.Context, m *client.Client) error {
		resp, err := m.Submit(ctx, req)
		if err != nil {
			var unreachable *client.UnreachableError
			if errors.As(err, &unreachable) && unreachable.Unknown {
				return fmt.Errorf("build %s: %w; `holdfast show %s` will tell", req.GetBuildId(), err, req.GetBuildId())
			}
			return err
		}
		if o.follow {
			return follow(ctx, m, std, resp, o.json)
		}
		if o.json {
			return printJSON(std.out, idDoc{ID: resp.GetBuildId()})
		}
		_, err = fmt.Fprintln(std.out, resp.GetBuildId())
		return err
	})
}

// build makes the spec of file or command and flags.
func (o *submitOptions) build(stdin io.Reader) (*spec.Spec, error) {
	env, err := pairs("env", o.env)
	if err != nil {
		return nil, err
	}
	labels, err := pairs("label", o.labels)
	if err != nil {
		return nil, err
	}
	var s *spec.Spec
	switch {
	case o.file != "" && len(o.argv) > 0:
		return nil, badUsage("-f FILE and CMD exclude each other, got %q and %q", o.file, o.argv[0])
	case o.file != "":
		if s, err = readSpec(o.file, stdin); err != nil {
			return nil, err
		}
		if o.name != "" {
			s.Name = o.name
		}
		if o.reason != "" {
			s.Reason = o.reason
		}
	case len(o.argv) > 0:
		s = spec.FromCommand(o.name, o.reason, o.argv)
	default:
		return nil, badUsage("nothing to build: give -f FILE or CMD ARG…")
	}
	for i := range s.Steps {
		s.Steps[i].Env = merged(s.Steps[i].Env, env)
	}
	s.Requires = merged(s.Requires, labels)
	if err := s.Validate(); err != nil {
		return nil, badUsage("%w", err) // the file is good: a flag or the command is not
	}
	return s, nil
}

// merged returns what is in both; over wins.
func merged(under, over map[string]string) map[string]string {
	if len(over) == 0 {
		return under
	}
	m := make(map[string]string, len(under)+len(over))
	maps.Copy(m, under)
	maps.Copy(m, over)
	return m
}

// readSpec reads a build file.
func readSpec(name string, stdin io.Reader) (*spec.Spec, error) {
	in, shown := stdin, "<stdin>"
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, badUsage("%w", err)
		}
		defer f.Close()
		in, shown = f, name
	}
	data, err := io.ReadAll(io.LimitReader(in, spec.MaxBytes+1))
	if err != nil {
		return nil, badUsage("read %s: %w", shown, err)
	}
	s, err := spec.Parse(shown, data)
	if err != nil {
		return nil, &usageError{err: err}
	}
	return s, nil
}

// isFileError reports whether err speaks of a place in a build file.
func isFileError(err error) bool {
	var file *spec.FileError
	return errors.As(err, &file)
}
