package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// archive is a cpio archive in the form that the kernel unpacks ("newc").
type archive struct {
	bytes.Buffer
	files int
}

func (a *archive) put(name string, mode uint32, data []byte) {
	a.files++
	fmt.Fprintf(a, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.files, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	a.pad()
	a.Write(data)
	a.pad()
}

func (a *archive) pad() {
	for a.Len()%4 != 0 {
		a.WriteByte(0)
	}
}

// writeInitrd writes what the machine boots into: the init and the test of dir, and modules in the order in which they can be loaded.
func writeInitrd(path, root, dir, arguments string) error {
	files, err := moduleFiles(root)
	if err != nil {
		return err
	}
	var order []string
	seen := map[string]bool{}
	var add func(module string) error
	add = func(module string) error {
		module = strings.ReplaceAll(module, "-", "_")
		file, ok := files[module]
		if seen[module] || !ok { // built in
			return nil
		}
		seen[module] = true
		depends, err := dependencies(file)
		if err != nil {
			return err
		}
		for _, d := range depends {
			if err := add(d); err != nil {
				return err
			}
		}
		order = append(order, module)
		return nil
	}
	for _, m := range modules {
		if err := add(m); err != nil {
			return err
		}
	}
	a := &archive{}
	for _, d := range []string{"dev", "proc", "sys", "tmp", "modules"} {
		a.put(d, 0o40755, nil)
	}
	put := func(name, file string) error {
		data, err := os.ReadFile(file)
		if err == nil {
			a.put(name, 0o100755, data)
		}
		return err
	}
	for _, name := range []string{"init", "test"} {
		if err := put(name, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	for _, m := range order {
		if err := put("modules/"+m, files[m]); err != nil {
			return err
		}
	}
	a.put("modules/order", 0o100644, []byte(strings.Join(order, "\n")))
	a.put("arguments", 0o100644, []byte(arguments))
	a.put("TRAILER!!!", 0, nil)
	return os.WriteFile(path, a.Bytes(), 0o600)
}

// moduleFiles are the kernel's modules by name.
func moduleFiles(root string) (map[string]string, error) {
	found := map[string]string{}
	err := filepath.WalkDir(filepath.Join(root, "lib", "modules"), func(path string, d fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); err == nil && ok {
			found[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	return found, err
}

// dependencies are what a module says of itself, so that no index of them is needed.
func dependencies(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("%s says nothing of itself", path)
	}
	data, err := section.Data()
	if err != nil {
		return nil, err
	}
	for _, entry := range strings.Split(string(data), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}
