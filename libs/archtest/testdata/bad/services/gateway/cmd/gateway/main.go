// Package gateway lies where its command should.
package gateway
