package runner

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"agentyard.dev/services/sessions/sandbox"
)

// socket is a listening TCP socket.
type socket struct {
	addr  netip.AddrPort
	uid   int
	inode string
}

// listening returns the address of a listener on port that belongs to this session: to
// its uid, if it has one of its own, and else to a descendant of the runner.
func (r *runner) listening(port uint16) (addr netip.AddrPort, err error) {
	if r.network == nil {
		return r.listeningIn("/proc/net", port)
	}
	err = r.network.Do(func() (err error) {
		addr, err = r.listeningIn("/proc/thread-self/net", port)
		return err
	})
	return addr, err
}

func (r *runner) listeningIn(dir string, port uint16) (netip.AddrPort, error) {
	var found []socket
	for _, file := range []string{dir + "/tcp", dir + "/tcp6"} {
		sockets, err := listeners(file, port)
		if err != nil && !os.IsNotExist(err) { // a kernel without IPv6
			return netip.AddrPort{}, fmt.Errorf("read listeners: %w", err)
		}
		found = append(found, sockets...)
	}
	if len(found) == 0 {
		return netip.AddrPort{}, errPort
	}
	ours := func(s socket) bool { return s.uid == r.launch.Sandbox.UID }
	if !r.isolated(sandbox.UID) {
		owned := descendantSockets(os.Getpid())
		ours = func(s socket) bool { return owned[s.inode] }
	}
	if i := slices.IndexFunc(found, ours); i >= 0 {
		return found[i].addr, nil
	}
	return netip.AddrPort{}, errPort
}

// listeners reads the sockets that listen on port where loopback reaches them
// (proc_net_tcp in the kernel's documentation).
func listeners(file string, port uint16) ([]socket, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []socket
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		const listen = "0A"
		if len(fields) < 10 || fields[3] != listen {
			continue
		}
		addr, ok := procAddr(fields[1])
		if !ok || addr.Port() != port {
			continue
		}
		switch ip := addr.Addr(); {
		case ip.IsUnspecified() && ip.Is6() || ip.IsLoopback() && ip.Is6():
			addr = netip.AddrPortFrom(netip.IPv6Loopback(), port)
		case ip.IsUnspecified() || ip.IsLoopback():
			addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
		default:
			continue
		}
		uid, err := strconv.Atoi(fields[7])
		if err != nil {
			continue
		}
		out = append(out, socket{addr: addr, uid: uid, inode: fields[9]})
	}
	return out, lines.Err()
}

// procAddr parses "0100007F:1F90": 32-bit words in the machine's order, then the port.
func procAddr(s string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	n, perr := strconv.ParseUint(port, 16, 16)
	if err != nil || perr != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	ip, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)), ok
}

// descendantSockets returns the inodes of the sockets that processes below pid hold.
func descendantSockets(pid int) map[string]bool {
	children := map[int][]int{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if parent, ok := parentOf(child); ok {
			children[parent] = append(children[parent], child)
		}
	}
	inodes := map[string]bool{}
	for queue := children[pid]; len(queue) > 0; queue = queue[1:] {
		dir := fmt.Sprintf("/proc/%d/fd", queue[0])
		fds, _ := os.ReadDir(dir) // what is gone or may not be seen holds nothing for us
		for _, fd := range fds {
			link, _ := os.Readlink(filepath.Join(dir, fd.Name()))
			if inode, ok := strings.CutPrefix(link, "socket:["); ok {
				inodes[strings.TrimSuffix(inode, "]")] = true
			}
		}
		queue = append(queue, children[queue[0]]...)
	}
	return inodes
}

// parentOf reads the parent of a process (proc_pid_stat(5)); the name before it may hold
// anything, so the last ')' counts.
func parentOf(pid int) (int, bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	_, rest, ok := strings.Cut(string(data[max(0, strings.LastIndexByte(string(data), ')')):]), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 2 {
		return 0, false
	}
	parent, err := strconv.Atoi(fields[1])
	return parent, err == nil
}
