package packetmon

// Level says in one word how far the monitor can be relied on.
type Level string

// The levels.
const (
	LevelOK       Level = "ok"       // sees every connection and whose it is
	LevelDegraded Level = "degraded" // something is lost: [Status.Problems] says what
	LevelOff      Level = "off"      // sees nothing
)

// Status is how the monitor is at one moment.
type Status struct {
	Source   string    `json:"source"` // that is active: "ebpf", "packet", "poll", or "off"
	Level    Level     `json:"level"`
	Better   []Refused `json:"better,omitempty"`   // better sources that are not active, and why
	Problems []string  `json:"problems,omitempty"` // each says what is lost by it, and what to do
	Ports    []uint16  `json:"ports,omitempty"`
	SelfTest string    `json:"self_test,omitempty"` // what the last test of the source said
	Counts   Counts    `json:"counts"`
}

// Refused is a source that could not be opened or has failed.
type Refused struct {
	Name  string `json:"name"`
	Error string `json:"error"`
}

// Counts are the monitor's counters since it was started. Seen is the sum of what became of
// the connections: Records, Repeats, Excluded, ToMTA and Redirected, but for those still
// looked at. The others count records that say less than they could, and losses.
type Counts struct {
	Seen       uint64 `json:"seen"`       // connections that a source reported
	Records    uint64 `json:"records"`    // handed on
	Repeats    uint64 `json:"repeats"`    // reported once more
	Excluded   uint64 `json:"excluded"`   // of an excluded user, or Exim's own
	ToMTA      uint64 `json:"to_mta"`     // to this host's own mail server
	Redirected uint64 `json:"redirected"` // brought to this host's own mail server by a firewall rule

	UIDUnknown     uint64 `json:"uid_unknown"`     // records without a uid
	TooLate        uint64 `json:"too_late"`        // of them: the kernel had forgotten the owner when it was asked
	ProcessUnknown uint64 `json:"process_unknown"` // records without a process
	ProcessSkipped uint64 `json:"process_skipped"` // of them: not looked for, as there was too much to do

	Lost          uint64 `json:"lost"`           // dropped by the kernel before they could be read
	RepeatsForgot uint64 `json:"repeats_forgot"` // remembered connections that had to make room early
	Unheld        uint64 `json:"unheld"`         // handed on without waiting for what became of them: too many waited
	Dropped       uint64 `json:"dropped"`        // records that nobody took and for which there was no more room
}
