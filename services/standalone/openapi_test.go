package standalone

import (
	"bytes"
	"os"
	"testing"

	"agentyard.dev/services/gateway"
)

// TestOpenAPIFile fails when docs/openapi.json is not what the gateway serves.
func TestOpenAPIFile(t *testing.T) {
	want, err := gateway.OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.TrimSpace(got), bytes.TrimSpace(want)) {
		t.Error("docs/openapi.json is stale: run make gen")
	}
}
