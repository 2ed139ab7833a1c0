// Package tc turns a traffic policy that a person can read into what a Linux kernel must do for one session.
//
// A Policy says what is wanted. Compile takes the policies, a session and what its node can do, and returns a Plan, which says what
// the kernel at that session's interface must hold. Compile is pure: the same input gives the same bytes and the same hash on every
// node. A Plan prints as the tc and nft commands that would do the same. Package kernel (below this one) puts it in force.
package tc
