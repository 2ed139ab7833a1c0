// Command auth is as it should be.
package main

func main() {}
