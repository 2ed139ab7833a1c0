package api_test

import (
	_ "testing"

	_ "agentyard.dev/libs/api"
	_ "agentyard.dev/libs/bus"
)
