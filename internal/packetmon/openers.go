package packetmon

// DefaultOpeners lists the sources of this build, the best first.
func DefaultOpeners(OpenersOptions) []Opener {
	return nil
}
