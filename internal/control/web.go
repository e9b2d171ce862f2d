package control

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"

	"osm/internal/origin"
)

// webPath is below which the page lives on the control socket.
const webPath = "/web/"

// actorKey is where a page's request has its actor.
type actorKey struct{}

// WithActor hands an actor to a page's request.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorOf says for whom a page's request is. Its user and role are what the front end
// asserted, under the same rules as of any other request.
func ActorOf(ctx context.Context) (Actor, bool) {
	a, ok := ctx.Value(actorKey{}).(Actor)
	return a, ok
}

// mount puts a page below webPath. It gets requests with their actor in the context and
// their body read, within the bounds of the API.
func mount(mux *http.ServeMux, page http.Handler, log *slog.Logger) {
	mux.HandleFunc(webPath, func(w http.ResponseWriter, r *http.Request) {
		asked(w, r, log, func(actor Actor, body []byte) {
			ctx, cancel := context.WithTimeout(WithActor(r.Context(), actor), maxWork)
			defer cancel()
			r = r.WithContext(ctx)
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			page.ServeHTTP(w, r)
		})
	})
}

// askedBy is who sent a request: the kernel's word on the peer, and what root asserted.
func askedBy(r *http.Request) (Actor, error) {
	peer, ok := r.Context().Value(peerKey{}).(origin.Peer)
	if !ok {
		return Actor{}, forbidden("the kernel did not tell who asks")
	}
	return actorOf(peer, r.Header)
}
