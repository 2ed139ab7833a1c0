package gateway

// OpenAPI returns the document that GET /openapi.json serves.
func OpenAPI() ([]byte, error) {
	d, err := newDocs()
	if err != nil {
		return nil, err
	}
	return d.openapi, nil
}
