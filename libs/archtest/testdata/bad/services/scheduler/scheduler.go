// Package scheduler has no command.
package scheduler
