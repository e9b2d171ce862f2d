// Package whm is the page: all that can be seen and set, as HTML. Its handler runs inside
// osmd below /web/ on the control socket and calls [control.Service] with the actor of the
// request; what an actor may see and change is decided there. It opens no database,
// decides nothing, and keeps nothing but short notes on what was just done.
//
// Browsers reach it by a front that has logged them in: the CGI inside WHM, or "osmctl
// web". A front takes every X-OSM-… header of the browser away and sets its own:
//
//	X-OSM-User, X-OSM-Role, X-OSM-Reseller   for whom it asks, see package control
//	X-OSM-Session   something opaque that is bound to the login; every POST needs it
//	X-OSM-Origin    scheme://host[:port] that the browser must name in Origin
//	X-OSM-Base      what stands before each link: "" or "/osm"; "index.cgi" in query form
//	X-OSM-Links     "path" (the default) or "query"
//	X-OSM-Frame     "1": the page is shown inside WHM, without a bar and a logout of its own
//
// It passes Origin, Sec-Fetch-Site, Content-Type and Accept on as they came, and gives
// status, headers and body of the answer back unchanged; Location may be relative.
//
// A link is BASE/PAGE?name=value in path form, and BASE?p=PAGE&name=value in query form.
// PAGE is escaped as a path already ("senders/%28unknown%29"): the front undoes the escaping
// of the query once and asks for /web/PAGE?name=value with PAGE as it then is. BASE/logout
// (a POST) and the login are the front's own.
//
// Every change is a POST that carries a token bound to this process, the user and the
// session, and that comes from the page's own origin. It is answered by a redirect to a
// page that can be looked at again, with a note of what was done and, where that can be
// undone, a button for it. What went wrong is shown beside the form, with what was typed.
package whm
