package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// spec is one image.
type spec struct {
	Name     string // with its tag
	OS, Arch string
	User     string // "uid:gid"
	Binary   string // a file of this machine: the entry point
	Path     string // where it is in the image
	Files    []added
}

// added is one more file.
type added struct{ from, to string }

// write writes the image's tarball. The same spec of the same files gives the same bytes.
func write(s spec, out string) error {
	tag, err := name.NewTag(s.Name)
	if err != nil {
		return fmt.Errorf("image name: %w", err)
	}
	layer, err := layerOf(append([]added{{s.Binary, s.Path}}, s.Files...))
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return fmt.Errorf("add layer: %w", err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		return err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = s.OS, s.Arch
	file.Config = v1.Config{Entrypoint: []string{s.Path}, User: s.User, WorkingDir: "/", Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"}}
	if img, err = mutate.ConfigFile(img, file); err != nil {
		return err
	}
	if err := tarball.WriteToFile(out, tag, img); err != nil {
		return fmt.Errorf("write %s: %w", out, err)
	}
	return nil
}

// layerOf returns a layer of the files, with the directories that they are in and a /tmp.
func layerOf(files []added) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	made := map[string]bool{}
	mkdir := func(dir string, mode int64) error {
		if made[dir] {
			return nil
		}
		made[dir] = true
		return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: mode, ModTime: time.Unix(0, 0)})
	}
	if err := mkdir("tmp", 0o1777); err != nil {
		return nil, err
	}
	for _, f := range files {
		to := strings.TrimPrefix(f.to, "/")
		for i, c := range to {
			if c == '/' {
				if err := mkdir(to[:i], 0o755); err != nil {
					return nil, err
				}
			}
		}
		if err := addFile(w, f.from, to); err != nil {
			return nil, fmt.Errorf("add %s: %w", f.from, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil },
		tarball.WithCompressionLevel(1))
}

func addFile(w *tar.Writer, from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	mode := int64(0o644)
	if fi.Mode()&0o111 != 0 {
		mode = 0o755
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: to, Size: fi.Size(), Mode: mode, ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}
