package sandbox

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// capLast is above every capability that a kernel has or will soon have; unknown ones answer EINVAL.
const capLast = 63

// dropForAgent makes the calling thread one whose children can never gain a privilege: no new privileges
// (set-user-id programs run as who starts them), an empty bounding set, no ambient and no inheritable capabilities. With
// switchUID the thread keeps its effective ones, which the change of user id takes from the child.
func dropForAgent(switchUID bool) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	var hdr unix.CapUserHeader
	var now [2]unix.CapUserData
	hdr.Version = unix.LINUX_CAPABILITY_VERSION_3
	if err := unix.Capget(&hdr, &now[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	// Dropping from the bounding set takes CAP_SETPCAP; whoever lacks it has no capability to pass on either.
	if now[0].Effective&(1<<unix.CAP_SETPCAP) != 0 {
		for c := range uintptr(capLast + 1) {
			if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0); err != nil || has == 0 {
				continue
			}
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
				return fmt.Errorf("drop capability %d: %w", c, err)
			}
		}
	}
	for i := range now {
		now[i].Inheritable = 0
		if !switchUID {
			now[i].Permitted, now[i].Effective = 0, 0
		}
	}
	if err := unix.Capset(&hdr, &now[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}

// dropInit takes from all threads of init what it no longer needs: everything but the right to signal an agent
// of another user id. In a binary built with cgo only the calling thread can be changed; init is out of the agent's reach there too.
func dropInit(switchUID bool) {
	var keep uint32
	if switchUID {
		keep = 1 << unix.CAP_KILL
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{{Effective: keep, Permitted: keep}}
	// AllThreadsSyscall answers ENOTSUP in a cgo binary.
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&data[0])), 0) //nolint:gosec // capset(2) takes pointers
	if errno != 0 {
		_ = unix.Capset(&hdr, &data[0])
	}
	// Nobody traces init or reads its memory, whoever shares its user id.
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}
