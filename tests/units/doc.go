// Package units runs the four parts of the daemon with just the rights that their systemd
// units give them, on sockets that systemd's own systemd-socket-activate makes and holds,
// against a real Exim.
package units
