package types

import "time"

func sleep() { time.Sleep(1) } // not a test's
