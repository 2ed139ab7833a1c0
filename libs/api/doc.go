// Package api is agentyard's contract: its nouns, its errors and every operation
// that one part of the system may ask of another. Read it first.
//
// It imports the standard library only, so that a client, a test or another
// service can depend on it without inheriting anything. The JSON form of each type
// is public: fields are added, never renamed or reused.
//
// The nouns are [Session], [Profile], [Event], [User], [Tenant], [Key] and
// [Principal]. The operations are the package's [Op] values (ops_*.go); the server
// handler, the typed client, the HTTP route, the OpenAPI document and the
// authorisation check all derive from them.
package api
