package packetmon

import (
	"errors"
	"fmt"
	"slices"
)

// maxPorts bounds how many ports one source watches. Each costs every TCP packet that opens
// a connection one comparison in the kernel.
const maxPorts = 64

// ports is a sorted set of TCP ports that is never changed, so that it can be read without
// a lock.
type ports []uint16

// newPorts makes a set of what an operator configured.
func newPorts(list []uint16) (ports, error) {
	set := slices.Clone(list)
	slices.Sort(set)
	set = slices.Compact(set)
	switch {
	case len(set) == 0:
		return nil, errors.New("no ports to watch")
	case len(set) > maxPorts:
		return nil, fmt.Errorf("%d ports to watch; at most %d can be", len(set), maxPorts)
	case set[0] == 0:
		return nil, errors.New("port 0 cannot be watched")
	}
	return ports(set), nil
}

func (p ports) has(port uint16) bool {
	_, found := slices.BinarySearch(p, port)
	return found
}

// with returns the set and one more port.
func (p ports) with(port uint16) (ports, error) {
	return newPorts(append(slices.Clone([]uint16(p)), port))
}

// without returns the set less one port.
func (p ports) without(port uint16) (ports, error) {
	return newPorts(slices.DeleteFunc(slices.Clone([]uint16(p)), func(q uint16) bool { return q == port }))
}
