package whm

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"mime"
	"net/http"
	"path"
	"strings"
)

//go:embed static
var staticFiles embed.FS

// asset is a file that is the same for everybody. Its name holds a digest of its content,
// so that a browser may keep it for good.
type asset struct {
	name string // as it is asked for
	kind string
	body []byte
}

// loadStatic reads the static files; each is found under its own name and under the one
// with the digest.
func loadStatic() (map[string]asset, error) {
	list, err := staticFiles.ReadDir("static")
	if err != nil {
		return nil, fmt.Errorf("read the page's static files: %w", err)
	}
	all := make(map[string]asset, 2*len(list))
	for _, f := range list {
		body, err := staticFiles.ReadFile("static/" + f.Name())
		if err != nil {
			return nil, fmt.Errorf("read the page's static file: %w", err)
		}
		sum, ext := sha256.Sum256(body), path.Ext(f.Name())
		a := asset{name: strings.TrimSuffix(f.Name(), ext) + "-" + hex.EncodeToString(sum[:6]) + ext, kind: mime.TypeByExtension(ext), body: body}
		all[f.Name()], all[a.name] = a, a
	}
	return all, nil
}

func (p *pages) serveStatic(w http.ResponseWriter, r *http.Request) {
	a, ok := p.static[r.PathValue("name")]
	if !ok || a.name != r.PathValue("name") {
		p.handled((*call).nothingHere)(w, r)
		return
	}
	w.Header().Set("Content-Type", a.kind)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	_, _ = w.Write(a.body) // the client may have gone
}
