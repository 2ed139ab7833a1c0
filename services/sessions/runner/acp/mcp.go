package acp

import (
	"maps"
	"slices"

	"agentyard.dev/services/sessions/runner/agent"
)

// MCPCapabilities says by which transports beside standard input and output the agent reaches MCP servers.
type MCPCapabilities struct {
	HTTP bool `json:"http"`
	SSE  bool `json:"sse"`
}

// Pair is a variable of a server's environment or a header of its requests.
type Pair struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// StdioServer is an MCP server that the agent starts.
type StdioServer struct {
	Name    string   `json:"name"`
	Command string   `json:"command"`
	Args    []string `json:"args"`
	Env     []Pair   `json:"env"`
}

// RemoteServer is an MCP server that the agent connects to.
type RemoteServer struct {
	Type    string `json:"type"` // "http" or "sse"
	Name    string `json:"name"`
	URL     string `json:"url"`
	Headers []Pair `json:"headers"`
}

// servers returns the MCP servers that the agent can use. One that it cannot is left out, and said.
func (c *client) servers(cfg agent.Config) []any {
	list := []any{} // required, may be empty
	can := c.caps.MCP
	for _, m := range cfg.MCPServers {
		switch {
		case m.Type == "http" && can.HTTP, m.Type == "sse" && can.SSE:
			list = append(list, RemoteServer{Type: m.Type, Name: m.Name, URL: m.URL, Headers: pairs(m.Headers)})
		case m.Type == "" || m.Type == "stdio":
			list = append(list, StdioServer{Name: m.Name, Command: m.Command, Args: append([]string{}, m.Args...), Env: pairs(m.Env)})
		default:
			c.log.Warn("the agent cannot reach an MCP server of this type", "server", m.Name, "type", m.Type)
		}
	}
	return list
}

func pairs(texts map[string]string) []Pair {
	list := []Pair{}
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		list = append(list, Pair{Name: name, Value: texts[name]})
	}
	return list
}
