// Package api imports what it must not.
package api

import (
	_ "net/http"

	_ "github.com/google/uuid"
)
