package bus

import "time"

// CheckPartsEvery is how often followers of parts that begin after it read what they cannot have missed.
func (c *Conn) CheckPartsEvery(d time.Duration) { c.partCheck = d }

// CheckLogsEvery is likewise for followers of logs.
func (c *Conn) CheckLogsEvery(d time.Duration) { c.logCheck = d }
