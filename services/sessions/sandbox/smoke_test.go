package sandbox

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"
	"agentyard.dev/services/sessions/launch"
)
func TestMain(m *testing.M) { MaybeInit(); os.Exit(m.Run()) }
func TestSmoke(t *testing.T) {
	t0:=time.Now()
	c := Probe()
	j,_ := json.Marshal(c)
	fmt.Println(string(j), time.Since(t0), os.Geteuid())
	spec := launch.Sandbox{Isolation: []string{Mount,PID,User}}
	if os.Geteuid()==0 { spec = launch.Sandbox{Isolation: []string{Mount,PID,UID}, UID: 200001, GID:200001} }
	d := t.TempDir(); _ = os.Chmod(d, 0o755)
	for _, n := range []string{"workspace","home","tmp"} { os.MkdirAll(d+"/"+n, 0o777); os.Chown(d+"/"+n, spec.UID, spec.GID) }
	spec.Dir = d
	spec.Hide = []string{"/root", "/work"}
	cmd, err := Command(spec, d+"/workspace", []string{"sh","-c", os.Getenv("SCRIPT")}, []string{"PATH=/usr/bin:/bin:/sbin"})
	if err != nil { t.Fatal(err) }
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	t0=time.Now()
	err = cmd.Run()
	fmt.Println(err, time.Since(t0))
}
