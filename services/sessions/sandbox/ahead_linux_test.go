package sandbox

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"agentyard.dev/services/sessions/launch"
)

// startAhead makes start prepare its sandboxes before it orders anything of them.
var startAhead bool

// ahead is startAhead for the rest of t.
func ahead(t *testing.T) {
	startAhead = true
	t.Cleanup(func() { startAhead = false })
}

// prepareMain is a process that starts a sandbox ahead and waits, to be killed.
func prepareMain(isolation string) int {
	a, err := Prepare(launch.Sandbox{Isolation: strings.Split(isolation, ",")})
	if err == nil {
		a.Cmd.Stdout, a.Cmd.Stderr = os.Stdout, os.Stderr
		err = a.Cmd.Start()
	}
	if err != nil {
		fmt.Println("prepare:", err)
		return 1
	}
	fmt.Println("prepared")
	_ = a.Cmd.Wait()
	return 1
}

// prepared starts a sandbox ahead and returns it with its output.
func prepared(t *testing.T) (*Ahead, *bufio.Scanner) {
	t.Helper()
	a, err := Prepare(session(t, openDir(t)))
	if err != nil {
		t.Fatal(err)
	}
	return a, begin(t, a.Cmd)
}

// ended waits for the end of a sandbox that must have run nothing.
func ended(t *testing.T, cmd *exec.Cmd, lines *bufio.Scanner) {
	t.Helper()
	out := ""
	for lines.Scan() {
		out += lines.Text() + "\n"
	}
	_ = cmd.Wait()
	if strings.Contains(out, "ran") || cmd.ProcessState.ExitCode() == 0 {
		t.Errorf("%s:\n%s", cmd.ProcessState, out)
	}
}

func TestAhead(t *testing.T) {
	echo := []string{"/bin/echo", "ran"}
	t.Run("ends without orders", func(t *testing.T) {
		a, lines := prepared(t)
		a.Drop()
		ended(t, a.Cmd, lines)
	})
	t.Run("refuses orders for another isolation", func(t *testing.T) {
		a, lines := prepared(t)
		spec := session(t, openDir(t))
		spec.Isolation = slices.Clone(spec.Isolation)[:1]
		if err := a.Order(spec, "/", echo, nil); err == nil {
			t.Error("took them")
		}
		ended(t, a.Cmd, lines)
	})
	t.Run("refuses a user id that it cannot give", func(t *testing.T) {
		a, lines := prepared(t)
		spec := session(t, openDir(t))
		if os.Geteuid() != 0 {
			t.Log("only root gives user ids")
			a.Drop()
		} else {
			spec.UID = 0
			if err := a.Order(spec, "/", echo, nil); err == nil {
				t.Error("took them")
			}
		}
		ended(t, a.Cmd, lines)
	})
	t.Run("one that cannot be made never runs the agent", func(t *testing.T) {
		a, lines := prepared(t)
		spec := session(t, openDir(t))
		spec.Dir += "/none"
		if err := a.Order(spec, "/", echo, nil); err != nil {
			t.Fatal(err)
		}
		ended(t, a.Cmd, lines)
		if a.Cmd.ProcessState.ExitCode() != exitSetup {
			t.Error(a.Cmd.ProcessState)
		}
	})
	t.Run("orders to one that died are an error", func(t *testing.T) {
		a, lines := prepared(t)
		if err := Kill(a.Cmd); err != nil {
			t.Fatal(err)
		}
		ended(t, a.Cmd, lines)
		if err := a.Order(session(t, openDir(t)), "/", echo, nil); err == nil {
			t.Error("no error")
		}
	})
	t.Run("its orders may be large", func(t *testing.T) {
		spec := session(t, openDir(t))
		a, err := Prepare(spec)
		if err != nil {
			t.Fatal(err)
		}
		lines := begin(t, a.Cmd)
		env := []string{"PATH=/usr/bin:/bin"}
		for i := range 10 {
			env = append(env, "V"+strconv.Itoa(i)+"="+strings.Repeat("x", 100_000))
		}
		if err := a.Order(spec, "/", []string{"/bin/sh", "-c", "echo ${#V0} ${#V9}"}, env); err != nil {
			t.Fatal(err)
		}
		waitLine(t, lines, "100000 100000")
		if err := a.Cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	t.Run("it ends with its runner", func(t *testing.T) {
		cmd := exec.Command("/proc/self/exe", "runner", "", "prepare", strings.Join(session(t, openDir(t)).Isolation, ","))
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		waitLine(t, lines, "prepared")
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			for lines.Scan() { // until init, which has the other end too, is gone
			}
		}()
		select {
		case <-gone:
		case <-time.After(patience):
			t.Error("it lives on")
		}
		_ = cmd.Wait()
	})
}
