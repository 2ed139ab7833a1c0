// Package types has another name than its directory, and a vague one.
package types
