package cluster

import "syscall"

// attributes make a component end when the thread's process does, and give it a user.
func attributes(user int) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if user != 0 {
		attr.Credential = &syscall.Credential{Uid: uint32(user), Gid: uint32(user)}
	}
	return attr
}
