// Package kubernetes stands for the real one.
package kubernetes
