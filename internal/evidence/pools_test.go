package evidence

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"osm/internal/origin"
)

const poolFile = `
; a comment = no key
[global]
pm.status_path = /not-a-pool
listen = /run/not-a-pool.sock
[shop]
user = shop
listen = "/run/php/$pool.sock" ; its own
pm.status_path = /fpm-status
[blog]
listen = 9001
pm.status_path = /s
pm.status_listen = 127.0.0.1:9101
[plain]
listen = /run/php/plain.sock
; pm.status_path = /status
[wide]
listen = [::]:9002
pm.status_path=/s/$pool
`

func TestPoolsInTheFilesOfPHPFPM(t *testing.T) {
	want := []Pool{
		{Name: "shop", Address: "/run/php/shop.sock", StatusPath: "/fpm-status"},
		{Name: "blog", Address: "127.0.0.1:9101", StatusPath: "/s"},
		{Name: "wide", Address: "[::1]:9002", StatusPath: "/s/wide"},
	}
	if got := parsePools([]byte(poolFile)); !reflect.DeepEqual(got, want) {
		t.Errorf(" got %+v\nwant %+v", got, want)
	}
	for listen, want := range map[string]string{"9000": "127.0.0.1:9000", "0.0.0.0:9000": "127.0.0.1:9000", "*:9000": "127.0.0.1:9000", "192.0.2.1:9000": "192.0.2.1:9000", "": "", "/x": "/x"} {
		if got := loopbackOf(listen); got != want {
			t.Errorf("listen = %s is asked at %q, want %q", listen, got, want)
		}
	}
}

func TestOnlyRootsFilesNamePools(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, mode os.FileMode, uid int) {
		path := filepath.Join(dir, name)
		text := fmt.Sprintf("[%s]\nlisten = /run/%s\npm.status_path = /s\n", name, name)
		if err := os.WriteFile(path+".conf", []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path+".conf", mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path+".conf", uid, 0); err != nil {
			t.Fatal(err)
		}
	}
	write("good", 0o644, 0)
	write("wide", 0o666, 0)
	write("users", 0o644, 20001)
	if err := os.Symlink("good.conf", filepath.Join(dir, "linked.conf")); err != nil {
		t.Fatal(err)
	}
	p := &pools{globs: []string{dir + "/*.conf", "["}, now: origin.Clock(), fixed: []Pool{{Name: "fixed", Address: "/run/fixed"}}}
	for name, want := range map[string]int{"good": 1, "wide": 0, "users": 0, "fixed": 1, "none": 0} {
		if got := p.named(name); len(got) != want {
			t.Errorf("pool %s: %+v, want %d", name, got, want)
		}
	}
}

// Whatever a file says: a pool has a name, a place to be asked at and a path.
func FuzzParsePools(f *testing.F) {
	f.Add(poolFile)
	f.Fuzz(func(t *testing.T, text string) {
		for _, p := range parsePools([]byte(text)) {
			if p.Name == "" || p.Address == "" || p.StatusPath == "" || strings.ContainsAny(p.Name+p.Address, "\n") {
				t.Fatalf("pool %+v of %q", p, text)
			}
		}
	})
}
