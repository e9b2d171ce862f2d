// Package origin brings the kernel's word on who submitted a message: the peer of a
// Unix socket, the owner of a connection's other end, and, through the inspector,
// what a process and its parents are.
//
// It does the I/O and hands values to package policy, which judges them; it never
// judges itself. The daemon calls it without any privilege; only [ServeInspect] and
// [ExportMaps] run as root, in a process of their own that reads no mail. The first also
// hands on the status pages of php-fpm's pools, which whoever runs it asks for.
package origin
