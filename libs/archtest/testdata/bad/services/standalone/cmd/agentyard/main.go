// Command agentyard may import every service.
package main

import _ "agentyard.dev/services/auth"

func main() {}
