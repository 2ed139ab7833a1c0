package bus_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"agentyard.dev/libs/api"
	"agentyard.dev/libs/bus"
	"agentyard.dev/libs/bus/bustest"
)

func TestBlobs(t *testing.T) {
	srv, ring := bustest.New(t)
	blobs, err := bus.OpenBlobs(t.Context(), bustest.Connect(t, srv, ring, "scheduler"), bus.BlobsConfig{})
	if err != nil {
		t.Fatal(err)
	}
	gateway := bus.ReadBlobs(bustest.Connect(t, srv, ring, "gateway"))
	r := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{0, 1, 512 << 10, 512<<10 + 1, 3 << 20} {
		content := make([]byte, size)
		for i := range content {
			content[i] = byte(r.Uint32())
		}
		blob, err := blobs.Put(t.Context(), "acme", "t1", bytes.NewReader(content), 3<<20)
		if err != nil || blob.Size != int64(size) {
			t.Fatalf("put %d bytes: %+v, %v", size, blob, err)
		}
		var got bytes.Buffer
		if err := gateway.Get(t.Context(), "acme", "t1", blob, &got); err != nil || !bytes.Equal(got.Bytes(), content) {
			t.Errorf("got %d of %d bytes, %v", got.Len(), size, err)
		}
		other := blob
		other.SHA256 = strings.Repeat("0", 64)
		wantCode(t, gateway.Get(t.Context(), "acme", "t1", other, &got), api.CodeInternal)
		wantCode(t, gateway.Get(t.Context(), "beta", "t1", blob, &got), api.CodeNotFound)
	}
	t.Run("refuses what is too large", func(t *testing.T) {
		_, err := blobs.Put(t.Context(), "acme", "t1", bytes.NewReader(make([]byte, 101)), 100)
		wantCode(t, err, api.CodeExhausted)
	})
	t.Run("does not take what broke off for the whole", func(t *testing.T) {
		broken := io.MultiReader(strings.NewReader("the first half"), iotest.ErrReader(io.ErrUnexpectedEOF))
		if blob, err := blobs.Put(t.Context(), "acme", "t1", broken, 100); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%+v, %v", blob, err)
		}
	})
	t.Run("removes one of several", func(t *testing.T) {
		var ids [2]bus.Blob
		for i := range ids {
			var err error
			if ids[i], err = blobs.Put(t.Context(), "acme", "t4", strings.NewReader("one of two"), 100); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := blobs.Remove(t.Context(), "acme", "t4", ids[0].ID); err != nil {
				t.Fatal(err)
			}
		}
		var got bytes.Buffer
		wantCode(t, gateway.Get(t.Context(), "acme", "t4", ids[0], &got), api.CodeNotFound)
		if err := gateway.Get(t.Context(), "acme", "t4", ids[1], &got); err != nil {
			t.Error(err)
		}
		wantCode(t, blobs.Remove(t.Context(), "acme", "t4", "*"), api.CodeInvalid)
	})
	t.Run("purges", func(t *testing.T) {
		kept, err := blobs.Put(t.Context(), "acme", "t2", strings.NewReader("kept"), 100)
		if err != nil {
			t.Fatal(err)
		}
		gone, err := blobs.Put(t.Context(), "acme", "t3", strings.NewReader("gone"), 100)
		if err != nil {
			t.Fatal(err)
		}
		if err := blobs.Purge(t.Context(), "acme", "t3"); err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		wantCode(t, gateway.Get(t.Context(), "acme", "t3", gone, &got), api.CodeNotFound)
		if err := gateway.Get(t.Context(), "acme", "t2", kept, &got); err != nil || got.String() != "kept" {
			t.Errorf("%q, %v", got.String(), err)
		}
	})
}
