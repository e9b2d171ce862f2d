package packetmon

import (
	"time"

	"osm/policy"
)

// Record is one connection that bypassed Exim, with all that could be found out about it.
type Record struct {
	At         time.Time // wall time, UTC, milliseconds
	Connection policy.Connection
}
