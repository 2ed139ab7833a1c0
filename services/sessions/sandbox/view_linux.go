package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The parts of /run that programs need: name resolution and NixOS's programs. The rest holds sockets of the machine's services
// (and /run/user, the user's), which a read-only mount would not protect.
var runKept = []string{
	"/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager/resolv.conf", "/run/current-system", "/run/opengl-driver",
}

// Device nodes of the sandbox's /dev.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// tree is a detached copy of a mount, to be attached at its own path: what was there before the hiding.
type tree struct {
	path     string
	fd       int
	dir      bool
	readOnly bool
}

// buildView turns init's private mount namespace into what the agent may see. The order is what makes it safe: copies of what stays visible
// are taken first, then everything is made read-only, then the hidden places are covered by empty
// file systems, and then the copies are put on top. The agent has no privilege over this mount namespace, and in any nested one
// the mounts are locked together (mount_namespaces(7)), so nothing can be uncovered.
func buildView(cfg config) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	unix.Umask(0)
	masks := maskedPaths(cfg.Hide)
	trees, tmp, err := takeTrees(cfg, masks)
	if err != nil {
		return err
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE,
		&unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID}); err != nil {
		return fmt.Errorf("make the system read-only (needs Linux 5.12): %w", err)
	}
	if cfg.has(PID) {
		if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return fmt.Errorf("mount /proc: %w", err)
		}
	}
	if tmp != nil && !slices.ContainsFunc(trees, func(t tree) bool { return within(t.path, "/tmp") }) {
		trees = append(trees, *tmp) // on disk, so that big files do not eat memory
	} else {
		masks = append(masks, "/tmp")
	}
	for _, dir := range masks {
		if err := mask(dir); err != nil {
			return err
		}
	}
	if err := mountDev(); err != nil {
		return err
	}
	for _, t := range trees {
		if err := t.attach(); err != nil {
			return err
		}
	}
	for _, dir := range append(masks, "/dev") { // now that the mount points in them are made
		if dir == "/tmp" || dir == "/var/tmp" {
			continue
		}
		if err := unix.MountSetattr(unix.AT_FDCWD, dir, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return fmt.Errorf("make %s read-only: %w", dir, err)
		}
	}
	return nil
}

// takeTrees copies the mounts of what stays visible. The session's tmp is apart, because it goes to /tmp.
func takeTrees(cfg config, masks []string) (trees []tree, tmp *tree, err error) {
	for _, name := range devices {
		t, err := takeTree("/dev/" + name)
		if err != nil {
			return nil, nil, err
		}
		trees = append(trees, t)
	}
	for _, p := range append(slices.Clone(runKept), cfg.Show...) {
		p, err := filepath.EvalSymlinks(p)
		covered := within(p, "/tmp") || slices.ContainsFunc(masks, func(m string) bool { return within(p, m) })
		uncovers := slices.ContainsFunc(masks, func(m string) bool { return within(m, p) })
		if err != nil || !covered || uncovers { // what is not there, or in sight anyway, need not be shown
			continue
		}
		t, err := takeTree(p)
		if err != nil {
			return nil, nil, err
		}
		t.readOnly = true
		trees = append(trees, t)
	}
	if cfg.Sandbox.Dir != "" {
		for _, name := range []string{"workspace", "home", "tmp"} {
			t, err := takeTree(filepath.Join(cfg.Sandbox.Dir, name))
			if err != nil {
				return nil, nil, err
			}
			trees = append(trees, t)
			if name == "tmp" {
				if t, err = takeTree(t.path); err != nil {
					return nil, nil, err
				}
				t.path = "/tmp"
				tmp = &t
			}
		}
	}
	// A place inside another is attached after it.
	slices.SortStableFunc(trees, func(a, b tree) int { return strings.Compare(a.path, b.path) })
	return trees, tmp, nil
}

func takeTree(path string) (tree, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return tree{}, fmt.Errorf("keep visible: %w", err)
	}
	fi, err := os.Stat(path)
	if err != nil {
		return tree{}, fmt.Errorf("keep visible: %w", err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return tree{}, fmt.Errorf("keep %s visible: %w", path, err)
	}
	return tree{path: path, fd: fd, dir: fi.IsDir()}, nil
}

// attach puts the copy at its path, making the mount point where a mask has left nothing. Mount points are only ever made in
// masks: fresh file systems that no agent has written to.
func (t tree) attach() error {
	defer unix.Close(t.fd)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID}
	if t.readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(t.fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return fmt.Errorf("restrict %s: %w", t.path, err)
	}
	if _, err := os.Lstat(t.path); errors.Is(err, os.ErrNotExist) {
		if err := t.makeMountPoint(); err != nil {
			return fmt.Errorf("make mount point %s: %w", t.path, err)
		}
	}
	if err := unix.MoveMount(t.fd, "", unix.AT_FDCWD, t.path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s: %w", t.path, err)
	}
	return nil
}

func (t tree) makeMountPoint() error {
	if t.dir {
		return os.MkdirAll(t.path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(t.path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(t.path, nil, 0o444)
}

// maskedPaths are the places to cover, outermost first and none inside another.
func maskedPaths(hide []string) []string {
	var paths []string
	for _, p := range append([]string{"/run", "/var/tmp", "/dev/shm"}, hide...) {
		p, err := filepath.EvalSymlinks(p)
		if err != nil || p == "/" || p == "/dev/shm" { // not there, or part of the new /dev
			continue
		}
		paths = append(paths, p)
	}
	slices.Sort(paths)
	var outer []string
	for _, p := range paths {
		if !slices.ContainsFunc(outer, func(o string) bool { return within(p, o) }) && !within(p, "/tmp") && !within(p, "/dev") {
			outer = append(outer, p)
		}
	}
	return outer
}

// within reports whether path is dir or inside it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// mask covers a directory with an empty file system, and a file with nothing.
func mask(path string) error {
	options := "mode=0755,size=1m,nr_inodes=4k"
	if path == "/tmp" || path == "/var/tmp" {
		options = "mode=1777,size=1g"
	}
	fi, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("hide %s: %w", path, err)
	}
	if !fi.IsDir() {
		if err := unix.Mount("/dev/null", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("hide %s: %w", path, err)
		}
		return nil
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("hide %s: %w", path, err)
	}
	return nil
}

// mountDev replaces /dev by the few nodes that every program may have, terminals of its own and shared memory of its own:
// the machine's /dev/pts holds the user's terminals, into which anybody of the same uid could type.
func mountDev() error {
	if err := unix.Mount("tmpfs", "/dev", "tmpfs", unix.MS_NOSUID, "mode=0755,size=1m"); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	for _, dir := range []string{"/dev/pts", "/dev/shm"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("mount /dev: %w", err)
		}
	}
	for name, target := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, "/dev/"+name); err != nil {
			return fmt.Errorf("mount /dev: %w", err)
		}
	}
	if err := unix.Mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620"); err != nil {
		return fmt.Errorf("mount /dev/pts: %w", err)
	}
	if err := unix.Mount("tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777,size=1g"); err != nil {
		return fmt.Errorf("mount /dev/shm: %w", err)
	}
	return nil
}
