package packetmon

// SourceOptions is what the sources need to be opened.
type SourceOptions struct {
	Ports []uint16
	Boot  func() int64 // CLOCK_BOOTTIME in nanoseconds
}

// Openers lists the sources, the best first.
func Openers(o SourceOptions) []Opener {
	return []Opener{
		{Name: SourceEBPF, Open: func() (Source, error) { return opened(OpenEBPF(EBPFOptions{Ports: o.Ports, Boot: o.Boot})) }},
		{Name: SourcePacket, Open: func() (Source, error) { return opened(OpenPacket(PacketOptions(o))) }},
		{Name: SourcePoll, Open: func() (Source, error) { return opened(OpenPoll(PollOptions{Ports: o.Ports, Boot: o.Boot})) }},
	}
}

// opened keeps a source that could not be opened from looking like one that could.
func opened[S Source](s S, err error) (Source, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}
