package auth

import _ "agentyard.dev/services/gateway"
