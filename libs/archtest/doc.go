// Package archtest holds the rules of the repository that a compiler does not check, as tests: who may import whom, where
// a third-party package lives, what a package, a file and a test must have. Its fixtures (testdata) show each rule failing.
//
// It has no code of its own; run it with go test ./libs/archtest.
package archtest
