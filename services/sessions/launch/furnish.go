package launch

// File is a file that the runner puts into the session's home before the agent starts, for the agent alone to read.
type File struct {
	Path string `json:"path"` // below the home, slash-separated
	Data []byte `json:"data"`
}

// CredentialFile is a file in which the agent keeps its sign-in fresh. The runner puts Data there, unless what is there is newer, and brings back what
// the agent makes of it.
type CredentialFile struct {
	Path    string `json:"path"`
	Version uint64 `json:"version,omitempty"` // of Data; 0: none is stored
	Data    []byte `json:"data,omitempty"`
}
