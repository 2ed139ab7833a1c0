// Package kernel makes one Linux kernel hold what traffic plans say.
//
// Apply reads what an interface has, compares it with the plan, writes the difference and reads again: nothing is assumed, and a plan that
// is in force already costs no write. It guarantees:
//
//   - A rate is changed in place. The root of a tree goes only when the plan says that nothing of ours shall be there.
//   - What somebody else put on the interface is never touched: Apply then refuses with ErrForeign.
//   - A class is added only after its parent is known to be there, since the kernel puts an orphan at the root without a word.
//   - Which class a packet belongs to changes in one message, so packets meet the old classes or the new ones, never some of each.
//   - Limits of packets and connections are nft tables of our own, changed rule by rule in one transaction for each network namespace; rules that change go on counting.
//   - When a message fails, what was done before it is undone; the error says which plan is in force.
//
// It talks to the kernel in batches of rtnetlink messages of its own making, and classifies with one eBPF program per plan that it
// assembles itself: neither tc nor a compiler need be there. What the kernel can do is probed (Probe).
//
// Everything but the types is for Linux; elsewhere Open says that it is not supported.
package kernel
