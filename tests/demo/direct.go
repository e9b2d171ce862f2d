package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"osm/internal/control"
	"osm/tests/lab"
)

// pastExim is how often the hacked site opens a connection to somebody else's mail server.
const pastExim = 40

// directScript is what such a script does: it speaks SMTP itself. Arguments: host, times.
const directScript = `<?php for ($i = 0; $i < (int)$argv[2]; $i++) {
	$s = fsockopen($argv[1], 25) or exit(1); fgets($s);
	fwrite($s, "EHLO hacked.example\r\n"); fgets($s); usleep(20000); fclose($s);
}`

func connectPast(ctx context.Context, l *lab.Lab) error {
	dir := filepath.Join(l.HomeOf("hacked"), "public_html", "wp-content/plugins/contact-form")
	if err := l.WriteFile("hacked", filepath.Join(dir, "cache.php"), directScript); err != nil {
		return err
	}
	out, err := l.As(ctx, "hacked", dir, "/usr/bin/php", "cache.php", lab.FarIPv4, fmt.Sprint(pastExim)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("connect past Exim: %w: %.300s", err, out)
	}
	return nil
}

// tellPast says what was seen of that. A busy machine may know of one or two no more whose
// they are, without the tracepoint.
func tellPast(l *lab.Lab) (bool, error) {
	client := control.NewClient(l.ControlSocket())
	defer client.Close()
	var seen []control.Connection
	err := lab.WaitFor(20*time.Second, "connections past Exim", func() error {
		list, err := client.Connections(context.Background(), control.Query{Limit: 1000, Where: map[string]string{"account": "hacked"}})
		if seen = list.Items; err == nil && len(seen) < pastExim*9/10 {
			err = fmt.Errorf("%d of %d were seen and are hacked's", len(seen), pastExim)
		}
		return err
	})
	if err != nil {
		return false, err
	}
	fmt.Printf("\nhacked also opened %d connections to another mail server, past Exim: %d were counted for it (seen by %s),\nfrom %s.\n",
		pastExim, len(seen), seen[0].SeenBy, seen[0].WorkingDirectory)
	return len(seen) <= pastExim, nil
}
