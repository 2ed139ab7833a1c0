// Package helpers has a vague name.
package helpers
