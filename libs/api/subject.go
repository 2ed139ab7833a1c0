package api

// Subjects on the bus. They are permissions too: a credential names the subjects that
// its holder may use (libs/bus keyring.go).
const (
	// LedgerPrefix + <noun>.<tenant>.<id> holds the changes of one entity.
	LedgerPrefix = "yard.v1."
	// OpPrefix + <service>.<verb> is where a service answers operations.
	OpPrefix = "yard.v1.op."
	// RunnerPrefix + <tenant>.<session>.<verb> is where one session's runner asks the
	// sessions service. Only that session's credential may publish there, so the subject
	// proves who asks.
	RunnerPrefix = "yard.v1.runner."
	// PeerPrefix + <asking service>.<answering service>.<verb> is where a service asks what only
	// it may. Only that service's credential may publish there, so the subject proves who asks.
	PeerPrefix = "yard.v1.peer."
	// LogPrefix + <tenant>.<session>.<writer> holds a session's events; the writer is
	// "user" (the sessions service, for people) or "agent" (the session's runner).
	LogPrefix = "yard.v1.log."
	// LivePrefix + the rest of a log subject is where new log entries are republished.
	LivePrefix = "yard.v1.live.log."
)

// LogWriter is the last token of a log subject: who wrote the event.
type LogWriter string

// The writers of a session's log.
const (
	WriterUser  LogWriter = "user"
	WriterAgent LogWriter = "agent"
)

// LogSubject returns the subject on which writer appends to a session's log.
func LogSubject(tenant, session string, writer LogWriter) string {
	return LogPrefix + tenant + "." + session + "." + string(writer)
}

// LiveSubject returns the subject on which new entries of a session's log appear.
// An empty writer means both.
func LiveSubject(tenant, session string, writer LogWriter) string {
	if writer == "" {
		writer = "*"
	}
	return LivePrefix + tenant + "." + session + "." + string(writer)
}
