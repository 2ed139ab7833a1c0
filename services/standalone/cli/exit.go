package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"agentyard.dev/libs/api"
)

// The exit statuses, as the root command's help lists them.
const (
	exitOK = iota
	exitError
	exitUsage
	exitNotFound
	exitDenied
	exitTimeout
	exitConflict
	exitExhausted
	exitInterrupted = 130 // 128 + SIGINT, as shells say it
)

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usage(err error) error {
	if err == nil {
		return nil
	}
	return usageError{err}
}

// silent is an error that was told to the person already; it only has a status.
type silent int

func (s silent) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// report tells the person about err in one line and returns the exit status.
func (a *app) report(cmd *cobra.Command, err error) int {
	var quiet silent
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &quiet):
		return int(quiet)
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	var bad usageError
	var refused *api.Error
	switch {
	case errors.As(err, &bad):
		fmt.Fprintf(a.Err, "agentyard: %s (see '%s --help')\n", line(err.Error()), cmd.CommandPath())
		return exitUsage
	case errors.As(err, &refused):
		fmt.Fprintf(a.Err, "agentyard: %s%s\n", line(detail(err, refused)), a.advice(refused))
	case errors.Is(err, context.DeadlineExceeded):
		fmt.Fprintln(a.Err, "agentyard: out of time")
	default:
		fmt.Fprintf(a.Err, "agentyard: %s\n", line(err.Error()))
	}
	return status(err)
}

// detail is what the server said, after what this program was doing.
func detail(err error, refused *api.Error) string {
	doing, _, _ := strings.Cut(err.Error(), refused.Error())
	return doing + refused.Detail
}

// advice adds what to do about a refusal that a person can mend.
func (a *app) advice(e *api.Error) string {
	switch {
	case e.Code == api.CodeUnauthenticated:
		return "; run 'agentyard login URL' or set AGENTYARD_KEY"
	case strings.HasPrefix(e.Detail, "cannot reach "):
		return "; is it running? 'agentyard up' starts a yard here"
	case e.RetryAfter > 0:
		return fmt.Sprintf("; try again in %v", e.RetryAfter)
	}
	return ""
}

// status is the exit status of err.
func status(err error) int {
	var e *api.Error
	if !errors.As(err, &e) {
		if errors.Is(err, context.DeadlineExceeded) {
			return exitTimeout
		}
		return exitError
	}
	switch e.Code {
	case api.CodeInvalid:
		return exitUsage
	case api.CodeNotFound:
		return exitNotFound
	case api.CodeUnauthenticated, api.CodeDenied:
		return exitDenied
	case api.CodeUnavailable:
		return exitTimeout
	case api.CodeConflict:
		return exitConflict
	case api.CodeExhausted:
		return exitExhausted
	}
	return exitError
}

// line makes text one line without control characters.
func line(text string) string {
	return strings.Join(strings.Fields(clean(text)), " ")
}
