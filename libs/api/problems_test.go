package api_test

import (
	"errors"
	"strings"
	"testing"

	"agentyard.dev/libs/api"
)

func TestProblems(t *testing.T) {
	t.Run("none is no error", func(t *testing.T) {
		if err := (api.Problems{}).Err(); err != nil {
			t.Error(err)
		}
	})
	t.Run("all are told at once", func(t *testing.T) {
		var bad api.Problems
		bad.Add("/a", "must be %d", 1)
		bad.Line("/b", "two\nlines", 200)
		var e *api.Error
		if err := bad.Err(); !errors.As(err, &e) || e.Code != api.CodeInvalid || len(e.Fields) != 2 ||
			e.Detail != "/a: must be 1; /b: must be one line of at most 200 characters" {
			t.Errorf("%+v", err)
		}
	})
	for s, good := range map[string]bool{"": true, "größer": true, strings.Repeat("é", 8): true, strings.Repeat("e", 9): false, "\t": false, "\x7f": false, "\xff": false} {
		var bad api.Problems
		if bad.Line("/s", s, 8); (bad.Err() == nil) != good {
			t.Errorf("%q: %v", s, bad.Err())
		}
	}
}

func TestPointerToken(t *testing.T) {
	if got := api.PointerToken("a/b~1"); got != "a~1b~01" {
		t.Error(got)
	}
}
