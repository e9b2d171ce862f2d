// Package packetmon sees the outgoing connections to mail ports that bypass Exim, and finds
// out whose they are. It is the front-end of the back door; it never decides, and it knows
// no account: it hands on uids, processes and addresses as the kernel tells them.
//
// One [Source] at a time is active, the best that this host allows: ebpf is told in the
// kernel, by the process that connects; packet sees the first packet and asks the kernel
// whose socket it is; poll looks at all sockets every so often and sees only what lives
// long enough. [Monitor] chooses by trying, drops what is no bypass, looks at the
// processes, and hands each connection on as a [Record].
//
//	Source ─▶ Monitor: repeats, excluded uids, own Exim ─▶ socket's owner ─▶ processes ─▶ Record
//
// A source's goroutine does no more than must be done at once: the owner, which the kernel
// forgets with the connection. One more looks at the processes behind a bounded queue; when
// that is full, connections are handed on for their uid alone, which is what counts and
// limits. Nobody waits for whom the records are for. Status tells what gets lost by all this.
//
// "osmd watch" runs it with just the capabilities that it needs and writes the records to
// the daemon ([Serve]); the daemon reads them ([Follow]) and has each one judged. On the
// wire is one [Message] a line.
package packetmon
