// Package sandboxtest gives tests a network of their own, so that the machine's is not touched.
package sandboxtest
