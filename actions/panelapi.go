package actions

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// cPanel's two interfaces on the command line, as their documentation has them
// (api.docs.cpanel.net). What they end with is not relied upon: by one account whmapi1 ends
// with 0 where it refused.
//
//	whmapi1 --output=json FUNCTION key=value …
//	{"data":{…},"metadata":{"command":"FUNCTION","reason":"OK","result":1,"version":1}}
//
//	uapi --output=json --user=USER Email FUNCTION key=value …
//	{"apiversion":3,"func":"FUNCTION","module":"Email","result":{"data":…,"errors":null,"status":1}}

// maxReply bounds an answer: that of list_pops grows with the account's mailboxes.
const maxReply = 4 << 20

// maxStarts is how many opening braces of an answer are tried: warnings may stand before
// the JSON.
const maxStarts = 64

// reply is what the panel says became of a call.
type reply struct {
	ok     bool
	reason string          // one line
	data   json.RawMessage // nil if there is none
}

// pair is one argument of a call.
type pair struct{ key, value string }

// whm calls WHM's API as root. An error means that it refused, or that nothing is known.
func (p panel) whm(ctx context.Context, limit time.Duration, function string, args ...pair) (reply, error) {
	return p.call(ctx, limit, p.x.o.Panel.WHMAPI1, function, []string{"--output=json", function}, args, parseWHM)
}

// uapi calls the API of an account's own pages, for that account.
func (p panel) uapi(ctx context.Context, limit time.Duration, account, function string, args ...pair) (reply, error) {
	return p.call(ctx, limit, p.x.o.Panel.UAPI, function, []string{"--output=json", "--user=" + account, "Email", function}, args, parseUAPI)
}

func (p panel) call(ctx context.Context, limit time.Duration, program, function string, argv []string, args []pair, parse func(string) (reply, bool)) (reply, error) {
	for _, a := range args {
		argv = append(argv, a.key+"="+uriEncode(a.value))
	}
	said, noise, err := p.run(ctx, limit, maxReply, program, argv)
	if err != nil && !exited(err) { // it could not be started, or was killed: what it said is not whole
		return reply{}, err
	}
	r, ok := parse(said)
	switch {
	case !ok && said == "" && noise == "" && err == nil:
		return reply{}, fmt.Errorf("%s %s: said nothing", program, function)
	case !ok && err == nil:
		return reply{}, fmt.Errorf("%s %s: no answer that can be understood: %s", program, function, oneLine(said+" "+noise, 300))
	case !ok:
		return reply{}, fmt.Errorf("%w: %s", err, oneLine(noise+" "+said, 300))
	case !r.ok:
		return r, fmt.Errorf("%s %s: the panel says: %s", program, function, r.reason)
	}
	return r, nil
}

// run is one command for the panel, with what it says on its two outputs kept apart:
// warnings must not get in between the JSON.
func (p panel) run(ctx context.Context, limit time.Duration, output int, program string, args []string) (said, noise string, err error) {
	c := command{prefix: limitedPrefix(p.x.o.CommandPrefix, limit), program: program, limit: limit, output: output}
	return c.ask(ctx, args...)
}

// ask is run, with the two outputs apart.
func (c command) ask(ctx context.Context, args ...string) (said, noise string, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	cmd, out := c.build(ctx, args)
	errOut := &cappedBuffer{limit: maxOutput}
	cmd.Stderr = errOut
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	err = cmd.Run()
	said, noise = strings.TrimSpace(out.String()), strings.TrimSpace(errOut.String())
	what := c.program + " " + firstWord(args)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return said, noise, fmt.Errorf("%s: killed after %v", what, c.limit)
	case ctx.Err() != nil:
		return said, noise, fmt.Errorf("%s: %w", what, ctx.Err())
	case err != nil:
		return said, noise, fmt.Errorf("%s: %w", what, err)
	}
	return said, noise, nil
}

// firstWord is the argument that tells which command it was.
func firstWord(args []string) string {
	i := slices.IndexFunc(args, func(a string) bool { return !strings.HasPrefix(a, "--") && a != "Email" })
	if i < 0 {
		return ""
	}
	return cut(args[i], 64)
}

// limitedPrefix has systemd end what it started for us: a signal of ours reaches
// systemd-run alone, and the command would go on.
func limitedPrefix(prefix []string, limit time.Duration) []string {
	if len(prefix) == 0 || !strings.HasSuffix(prefix[0], "/systemd-run") {
		return prefix
	}
	ms := fmt.Sprintf("--property=RuntimeMaxSec=%dms", limit.Milliseconds())
	return slices.Insert(slices.Clone(prefix), 1, ms)
}

// uriEncode writes a value as the panel's command line expects it. Everything but letters,
// digits and what no decoder touches is encoded: a plus sign would come out as a space.
func uriEncode(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.', c == '@':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// parseWHM finds the answer in what whmapi1 printed.
func parseWHM(said string) (reply, bool) {
	return findObject(said, func(object map[string]json.RawMessage) (reply, bool) {
		var meta map[string]json.RawMessage
		if json.Unmarshal(object["metadata"], &meta) != nil {
			return reply{}, false
		}
		result := truth(meta["result"])
		return reply{ok: result == Yes, reason: words(meta["reason"]), data: orNil(object["data"])}, result != Unknown
	})
}

// parseUAPI finds the answer in what uapi printed: below "result", or that object alone.
func parseUAPI(said string) (reply, bool) {
	return findObject(said, func(object map[string]json.RawMessage) (reply, bool) {
		var inner map[string]json.RawMessage
		if json.Unmarshal(object["result"], &inner) == nil && inner != nil {
			object = inner
		}
		status := truth(object["status"])
		return reply{ok: status == Yes, reason: words(object["errors"]), data: orNil(object["data"])}, status != Unknown
	})
}

// findObject looks for the first JSON object that read can use.
func findObject(said string, read func(map[string]json.RawMessage) (reply, bool)) (reply, bool) {
	rest := said
	for range maxStarts {
		i := strings.IndexByte(rest, '{')
		if i < 0 {
			break
		}
		rest = rest[i:]
		var object map[string]json.RawMessage
		if json.NewDecoder(strings.NewReader(rest)).Decode(&object) == nil {
			if r, ok := read(object); ok {
				return r, true
			}
		}
		rest = rest[1:]
	}
	return reply{}, false
}

func orNil(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return nil
	}
	return raw
}

// truth reads 1, "1" and true, and their opposites. A time counts as yes.
func truth(raw json.RawMessage) Known {
	s := strings.TrimSpace(strings.Trim(string(raw), `"`))
	switch s {
	case "true":
		return Yes
	case "false":
		return No
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || n != n {
		return Unknown
	}
	return yesIf(n != 0)
}

// words reads a text, or a list of texts, as one line.
func words(raw json.RawMessage) string {
	var s string
	var list []string
	switch {
	case json.Unmarshal(raw, &s) == nil && s != "":
	case json.Unmarshal(raw, &list) == nil && len(list) > 0:
		s = strings.Join(list, "; ")
	default:
		s = "no reason given"
	}
	return oneLine(s, 300)
}

// oneLine makes a stranger's text fit for a line of a log or a page.
func oneLine(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, cut(s, 4*n))
	return cut(strings.Join(strings.Fields(s), " "), n)
}
