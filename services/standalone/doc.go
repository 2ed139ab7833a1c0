// Package standalone is a whole yard in one process: the five services with an embedded
// bus. It composes them exactly as their own commands do; nothing in them knows.
package standalone
