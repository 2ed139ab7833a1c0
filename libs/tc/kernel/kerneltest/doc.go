// Package kerneltest gives tests and benchmarks what traffic control is tested with: network namespaces of their own, veth pairs between
// them, and real packets. It is for Linux, and for root.
package kerneltest
