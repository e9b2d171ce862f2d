// Package actions is what is done after the answer.
//
// A decision has been made and Exim has been answered; now what follows is done:
// events are written down as reports, senders are put on hold ([Plan], [Runner]),
// and the mail that was frozen is kept in a register and released, discarded or
// expired from Exim's queue ([Held]).
//
// Nothing here ever delays an answer, decides about a message, or runs a shell. What
// needs root is asked of the executor ([ServeExecutor]): a process of its own that
// knows a fixed list of verbs, checks each request again by itself and takes its
// commands, paths and rates only from its own options, never from a request. [Executor]
// is its client.
//
// # The executor's wire
//
// One connection for each request, on a unix socket whose peer must be root or one of
// the uids in [ExecutorOptions]. The request is one line of JSON, at most 16 KiB:
//
//	{"verb":"queue-deliver","ids":["1xVSHx-0004hT-1j"]}
//
// Of run-script the report follows the line, as many bytes as it says, at most 1 MiB:
//
//	{"verb":"run-script","script":{"name":"ticket","format":"json"},"body":2}
//	{}
//
// The answer is a sequence of lines of JSON, each at most 64 KiB. The last one carries
// "end":true; without it the answer was cut and counts as an error.
//
//	{"message":{"message_id":"1xVSHx-0004hT-1j","ref":"7k2m9qxd",…}}     queue-list, one for each message
//	{"end":true,"results":[{"message_id":"…","outcome":"done"}]}         queue-thaw, -deliver, -remove
//	{"end":true,"text":"Subject: …"}                                      queue-headers, exim-version
//	{"end":true,"options":{"auto_thaw":"0s"}}                             exim-options
//	{"end":true,"record":{"id":"…","done":true,"outcome":"…",…}}         apply, undo; records: a line each
//	{"end":true,"state":{"in_force":"yes","password_changed":"no"}}       check
//	{"text":"mailed to …"}                                                run-script, what it said, in parts
//	{"end":true,"exit":1}                                                 run-script, its exit status
//	{"end":true,"error":{"what":"…","on":"…","why":"…","next":"…"}}       refused or failed
//
// A message is shown or touched only if the -H file in Exim's spool, read by the
// executor itself, says that we froze it: that its variable acl_m_osm holds our answer
// with action freeze or discard. It is thawed, delivered or removed only while it is
// frozen. Other mail does not exist for this wire, whoever asks.
package actions
