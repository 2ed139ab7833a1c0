package sessions

// A cursor's kind says which list it belongs to.
const (
	cursorSessions byte = 's' // the creation revision of the page's last session
	cursorHistory  byte = 'h' // the revision of the page's last change
	cursorMessages byte = 'm' // the sequence up to which the log was read
	cursorProfiles byte = 'p' // the index of the page's last profile
	// the creation revision of the page's last entry
	cursorSecrets     byte = 'x'
	cursorCredentials byte = 'c'
)
