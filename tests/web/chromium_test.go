package web

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/chromedp/chromedp"
)

// chromium is the one browser, started by the first test that needs it.
var chromium struct {
	once  sync.Once
	ctx   context.Context
	close func()
	err   error
}

func startBrowser() {
	profile := filepath.Join(machine.Dir, "chromium")
	flags := []chromedp.ExecAllocatorOption{chromedp.ExecPath("/usr/bin/chromium"), chromedp.UserDataDir(profile), chromedp.WSURLReadTimeout(time.Minute)}
	for _, f := range []string{
		"headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync",
		"disable-dev-shm-usage", "disable-extensions", "hide-scrollbars", "no-default-browser-check",
	} {
		flags = append(flags, chromedp.Flag(f, true))
	}
	flags = append(flags, chromedp.Flag("force-color-profile", "srgb"), chromedp.Flag("lang", "en-GB"), chromedp.Env("FONTCONFIG_FILE="+fonts()))
	allocator, stop := chromedp.NewExecAllocator(context.Background(), flags...)
	ctx, cancel := chromedp.NewContext(allocator, chromedp.WithErrorf(func(string, ...any) {}))
	chromium.ctx, chromium.close = ctx, func() { cancel(); stop() }
	chromium.err = chromedp.Do(ctx)
}

// fonts makes a common screen font of what a page calls the system's: the pictures are then
// near to what people see.
func fonts() string {
	var rules strings.Builder
	for family, font := range map[string]string{"system-ui": "Inter", "sans": "Inter", "sans-serif": "Inter"} {
		fmt.Fprintf(&rules, `<match target="pattern"><test name="family"><string>%s</string></test><edit name="family" mode="prepend" binding="strong"><string>%s</string></edit></match>`, family, font)
	}
	text := `<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig><include>/etc/fonts/fonts.conf</include>` + rules.String() + `</fontconfig>`
	path := filepath.Join(machine.Dir, "etc", "fonts.conf")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return ""
	}
	return path
}

func closeBrowser() {
	if chromium.close != nil {
		chromium.close()
	}
}
