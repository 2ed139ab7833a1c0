// Package promises proves what traffic control promises as a whole, on the real processes of node agent, controller and bus and on real kernel namespaces: whoever is
// killed, and when, no session goes unshaped that was shaped, and in the end every one has what the last policy says.
package promises
