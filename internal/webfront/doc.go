// Package webfront lets a browser see the page of the running daemon on a host without
// WHM. "osmctl web" serves it.
//
// It is a door and no more: the pages are made by the daemon, below /web/ on its control
// socket, and what somebody may see or set is decided there. The front listens on a
// loopback address only, lets in who brings a one-time link, keeps the login, and hands
// everything else on with the headers that tell the daemon for whom it asks:
//
//	X-OSM-User, X-OSM-Role, X-OSM-Reseller  who has logged in; only root may say so
//	X-OSM-Session                           opaque, the same for the whole login
//	X-OSM-Base, X-OSM-Links                 how links are written: a prefix, and "path"
//	X-OSM-Origin                            what the browser must name as its origin
//
// Nothing that a browser sends under such a name gets through. Run by somebody else than
// root, a member of osm-admin, it serves operators only: the daemon believes nobody but
// root about who asks.
//
// It never opens the database, never runs a program, and holds no password: links are
// made and used up by the daemon.
package webfront
