package bus

// ReadLedger returns the ledger of noun without making or changing its stream, for a process that
// reads what another service owns (the gateway's session table; libs/trust). Get, History and View work as soon as
// the owner has made the stream: a View waits for it.
func ReadLedger[T any](c *Conn, noun string) *Ledger[T] { panic("todo") }
