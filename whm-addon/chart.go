package whm

import (
	"fmt"
	"html/template"
	"strings"
	"time"

	"osm/internal/control"
)

// series is one colour of a chart.
type series struct {
	name, class string
	of          func(b *control.Bucket) int64
}

// chartSeries are the parts of a column, from the foot up.
func chartSeries() []series {
	return []series{
		{"passed", "passed", func(b *control.Bucket) int64 { return b.Messages - b.Observed }},
		{"passed, only observed", "observe", func(b *control.Bucket) int64 { return b.Observed }},
		{"frozen", "frozen", func(b *control.Bucket) int64 { return b.Frozen }},
		{"deferred", "deferred", func(b *control.Bucket) int64 { return b.Deferred }},
		{"refused", "denied", func(b *control.Bucket) int64 { return b.Denied }},
		{"discarded", "discarded", func(b *control.Bucket) int64 { return b.Discarded }},
	}
}

// connectionSeries is the one part of a chart of connections.
func connectionSeries() []series {
	return []series{{"connections", "observe", func(b *control.Bucket) int64 { return b.Connections }}}
}

// chart is messages by verdict over time, or connections, as columns. It is drawn in percent of the width
// and in pixels of the height, so that it fits a phone and its texts keep their size.
type chart struct {
	p       *pages
	id      string
	title   string
	step    time.Duration
	buckets []control.Bucket // one for each step, empty ones too
	noun    string           // what is counted
	all     []series         // parts that a column can have
	series  []series         // those that occur
	top     int64            // of the scale
}

// The measures of a chart in pixels.
const (
	plotTop    = 14
	plotHeight = 132
	chartFoot  = 22
)

// newChart draws messages. It fills the gaps between buckets: from is the beginning of the
// first column.
func (p *pages) newChart(id, title string, list []control.Bucket, from time.Time, step time.Duration, n int) *chart {
	return (&chart{p: p, id: id, title: title, step: step, noun: "message", all: chartSeries()}).fill(list, from, n)
}

// connectionChart draws connections that bypassed Exim.
func (p *pages) connectionChart(id, title string, list []control.Bucket, from time.Time, step time.Duration, n int) *chart {
	return (&chart{p: p, id: id, title: title, step: step, noun: "connection", all: connectionSeries()}).fill(list, from, n)
}

func (c *chart) fill(list []control.Bucket, from time.Time, n int) *chart {
	c.buckets = make([]control.Bucket, n)
	step := c.step
	from = from.Truncate(step)
	for i := range c.buckets {
		c.buckets[i].At = control.Time{Time: from.Add(time.Duration(i) * step)}
	}
	for _, b := range list {
		if i := int(b.At.Sub(from) / step); i >= 0 && i < n && !b.At.Before(from) {
			c.buckets[i].Tally = b.Tally
		}
	}
	highest := int64(0)
	for i := range c.buckets {
		highest = max(highest, c.sum(&c.buckets[i]))
	}
	c.top = niceTop(highest)
	for i, s := range c.all {
		if i == 0 || c.total(s) > 0 {
			c.series = append(c.series, s)
		}
	}
	return c
}

// niceTop is the least round number that is not below n, and whose half is whole.
func niceTop(n int64) int64 {
	for power := int64(1); ; power *= 10 {
		for _, f := range []int64{4, 6, 8, 10, 12, 16, 20, 24, 30} {
			if f*power >= n {
				return f * power
			}
		}
	}
}

// sum is how high a column is.
func (c *chart) sum(b *control.Bucket) (n int64) {
	for _, s := range c.all {
		n += s.of(b)
	}
	return n
}

func (c *chart) total(s series) (sum int64) {
	for i := range c.buckets {
		sum += s.of(&c.buckets[i])
	}
	return sum
}

// Figures are the columns in which something was sent, for the table beside the chart.
func (c *chart) Figures() []control.Bucket {
	var out []control.Bucket
	for _, b := range c.buckets {
		if c.sum(&b) > 0 {
			out = append(out, b)
		}
	}
	return out
}

// ID and Title name the chart in a page.
func (c *chart) ID() string    { return c.id }
func (c *chart) Title() string { return c.title }

// OfConnections reports whether it is no chart of messages.
func (c *chart) OfConnections() bool { return c.noun == "connection" }

// Empty reports whether there is nothing to draw.
func (c *chart) Empty() bool { return len(c.Figures()) == 0 }

// legendEntry names a colour.
type legendEntry struct {
	Name, Class string
	Total       int64
}

// Legend names the colours, with their sums.
func (c *chart) Legend() []legendEntry {
	var out []legendEntry
	for _, s := range c.series {
		out = append(out, legendEntry{s.name, s.class, c.total(s)})
	}
	return out
}

// summary is the chart in one sentence, for those who cannot see it.
func (c *chart) summary() string {
	var parts []string
	for _, l := range c.Legend() {
		parts = append(parts, decimal(l.Total)+" "+l.Name)
	}
	highest := &c.buckets[0]
	for i := range c.buckets {
		if b := &c.buckets[i]; c.sum(b) > c.sum(highest) {
			highest = b
		}
	}
	return fmt.Sprintf("%d columns of %s each. In all: %s. The highest is %s at %s. The figures are in the table below it.", len(c.buckets),
		period(control.Period(c.step)), strings.Join(parts, ", "), counted(c.sum(highest), c.noun), highest.At.In(c.p.zone).Format("2 Jan 15:04 MST"))
}

// SVG draws the chart.
func (c *chart) SVG() template.HTML {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="chart" role="img" aria-labelledby="%s-t %s-d" width="100%%" height="%d" xmlns="http://www.w3.org/2000/svg">`, c.id, c.id, plotTop+plotHeight+chartFoot)
	fmt.Fprintf(&b, `<title id="%s-t">%s</title><desc id="%s-d">%s</desc>`, c.id, template.HTMLEscapeString(c.title), c.id, template.HTMLEscapeString(c.summary()))
	c.grid(&b)
	for i := range c.buckets {
		c.column(&b, i)
	}
	c.times(&b)
	b.WriteString(`</svg>`)
	return template.HTML(b.String())
}

// grid draws the scale: its foot, its half and its top.
func (c *chart) grid(b *strings.Builder) {
	for _, n := range []int64{0, c.top / 2, c.top} {
		y := c.height(c.top - n)
		class := "grid"
		if n == 0 {
			class = "foot"
		}
		fmt.Fprintf(b, `<line class="%s" x1="0" x2="100%%" y1="%.1f" y2="%.1f"/>`, class, plotTop+y, plotTop+y)
		if n > 0 {
			fmt.Fprintf(b, `<text class="scale" x="0" y="%.1f">%s</text>`, plotTop+y-3, decimal(n))
		}
	}
}

// height is how high so many messages are.
func (c *chart) height(n int64) float64 { return float64(n) / float64(c.top) * plotHeight }

// column draws one step: its parts from the foot up, and what it is for a pointer.
func (c *chart) column(b *strings.Builder, i int) {
	bucket, n := &c.buckets[i], float64(len(c.buckets))
	x, width := float64(i)*100/n, 100/n
	var said []string
	var parts strings.Builder
	foot := float64(plotTop + plotHeight)
	for _, s := range c.series {
		v := s.of(bucket)
		if v <= 0 {
			continue
		}
		h := max(c.height(v), 2) // what is there can be seen
		foot -= h
		fmt.Fprintf(&parts, `<rect class="part %s" x="%.3f%%" y="%.1f" width="%.3f%%" height="%.1f"/>`, s.class, x+width*0.12, max(foot, 0), width*0.76, h)
		said = append(said, decimal(v)+" "+s.name)
	}
	if len(said) == 0 {
		return
	}
	fmt.Fprintf(b, `<g class="column"><title>%s: %s</title><rect class="reach" x="%.3f%%" y="%d" width="%.3f%%" height="%d"/>%s</g>`,
		bucket.At.In(c.p.zone).Format("15:04 MST"), strings.Join(said, ", "), x, plotTop, width, plotHeight, parts.String())
}

// times writes when some of the columns were: about six, at round places.
func (c *chart) times(b *strings.Builder) {
	n := len(c.buckets)
	every := max(n/6, 1)
	for i := every / 2; i < n; i += every {
		at := c.buckets[i].At
		layout := "15:04"
		if c.step >= time.Hour && n > 48 {
			layout = "2 Jan"
		}
		fmt.Fprintf(b, `<text class="time" x="%.3f%%" y="%d" text-anchor="middle" data-time="%s" data-layout="%s">%s</text>`,
			(float64(i)+0.5)*100/float64(n), plotTop+plotHeight+15, at.UTC().Format("2006-01-02T15:04:05Z"), layout, at.In(c.p.zone).Format(layout))
	}
}

// bar draws how much of a limit is used. The numbers always stand beside it.
func bar(used, limit any, mode string) template.HTML {
	p := percent(used, limit)
	level := "easy"
	switch {
	case mode == "observe": // nothing is stopped, however full it is
		level = "observe"
	case p >= 100:
		level = "full"
	case p >= 80:
		level = "near"
	}
	return drawnBar(level, p, fmt.Sprintf("%d %% used", p))
}

// share draws a part of the largest of a list.
func share(n, largest any) template.HTML {
	p := percent(n, largest)
	return drawnBar("share", p, fmt.Sprintf("%d %% of the largest", p))
}

func drawnBar(level string, p int64, said string) template.HTML {
	width := min(max(p, 0), 100)
	if p == 0 && level == "share" {
		width = 1 // there is something
	}
	return template.HTML(fmt.Sprintf(`<svg class="bar %s" role="img" width="100%%" height="6" xmlns="http://www.w3.org/2000/svg"><title>%s</title><rect class="track" width="100%%" height="6" rx="3"/><rect class="fill" width="%d%%" height="6" rx="3"/></svg>`, level, said, width))
}
