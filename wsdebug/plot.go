package wsdebug

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// A plot is drawn as SVG. The drawing has no text, because it is stretched to the
// width of the page. The page has the text around it.
type plot struct {
	Title  string
	Max    string // of the vertical axis, which begins at 0
	Since  string // how long ago the horizontal axis begins
	Label  string // what the plot shows, for those who cannot see it
	Layers []layer
	Width  int
	Height int
}

// A layer is a line or an area of a plot.
type layer struct {
	Name, Now string
	Class     string // of the style sheet: its color
	Area      bool
	Path      string
}

const plotWidth, plotHeight = 600, 120

var zeros = strings.NewReplacer(".00", "", ".0\u00a0", "\u00a0") // of the upper edge, a round number

// plots draws the samples, which must be two or more.
func plots(history []sample) []plot {
	steps := make([]rates, len(history)-1)
	for i := range steps {
		steps[i] = between(history[i], history[i+1])
	}
	return []plot{plotTunnels(history), plotBytes(history, steps), plotEvents(history, steps)}
}

func plotTunnels(history []sample) plot {
	most, least := 0, math.MaxInt
	for _, s := range history {
		most, least = max(most, s.live), min(least, s.live)
	}
	c := newCanvas(history, float64(most), true)
	values := make([]float64, len(history))
	for i, s := range history {
		values[i] = float64(s.live)
	}
	now := count(history[len(history)-1].live)
	return c.plot("Tunnels", count(int64(c.most)),
		fmt.Sprintf("%s now, from %s to %s", now, count(least), count(most)),
		layer{"open", now, "a0", true, c.line(values, true)}, layer{"", "", "a0", false, c.line(values, false)})
}

func plotBytes(history []sample, steps []rates) plot {
	most := 0.0
	fromClient, fromUpstream := make([]float64, len(steps)), make([]float64, len(steps))
	for i, r := range steps {
		fromClient[i], fromUpstream[i] = r.fromClient.Bytes, r.fromUpstream.Bytes
		most = max(most, r.fromClient.Bytes, r.fromUpstream.Bytes)
	}
	c := newCanvas(history, most, false)
	last := steps[len(steps)-1]
	client, upstream := bytesPerSecond(last.fromClient.Bytes), bytesPerSecond(last.fromUpstream.Bytes)
	return c.plot("Bytes a second", bytesPerSecond(c.most),
		fmt.Sprintf("%s from clients and %s from the upstream now, at most %s", client, upstream, bytesPerSecond(most)),
		layer{"from clients", client, "a0", true, c.band(make([]float64, len(steps)), fromClient)},
		layer{"", "", "a0", false, c.steps(fromClient)},
		layer{"from the upstream", upstream, "a1", false, c.steps(fromUpstream)})
}

func plotEvents(history []sample, steps []rates) plot {
	most := 0.0
	opened := make([]float64, len(steps))
	for i, r := range steps {
		opened[i] = r.opened
		most = max(most, r.opened, r.closed)
	}
	c := newCanvas(history, most, false)
	last := steps[len(steps)-1]
	var layers []layer
	below := make([]float64, len(steps))
	for g := range groupCount {
		above, some := slices.Clone(below), false
		for i, r := range steps {
			above[i] += r.byGroup[g]
			some = some || r.byGroup[g] > 0
		}
		if some {
			layers = append(layers, layer{"closed: " + groupNames[g], perSecond(last.byGroup[g]), fmt.Sprintf("g%d", g), true, c.band(below, above)})
		}
		below = above
	}
	layers = append(layers, layer{"opened", perSecond(last.opened), "a0", false, c.steps(opened)})
	slices.Reverse(layers[:len(layers)-1])
	return c.plot("Opened and closed a second", perSecond(c.most),
		fmt.Sprintf("%s opened and %s closed now, at most %s", perSecond(last.opened), perSecond(last.closed), perSecond(most)), layers...)
}

// A canvas maps times and values to a plot's coordinates.
type canvas struct {
	at    []float64 // horizontal coordinates of the samples
	most  float64   // the value at the upper edge
	since time.Duration
}

// newCanvas chooses a round number of at least most for the upper edge: 1, 2 or 5
// times a power of ten.
func newCanvas(history []sample, most float64, whole bool) canvas {
	c := canvas{most: 1}
	if most > 0 {
		power := math.Pow(10, math.Floor(math.Log10(most)))
		for _, f := range []float64{1, 2, 5, 10} {
			if c.most = f * power; c.most >= most {
				break
			}
		}
	}
	if whole {
		c.most = max(c.most, 1)
	}
	first, last := history[0].at, history[len(history)-1].at
	c.since = last.Sub(first)
	for _, s := range history {
		c.at = append(c.at, plotWidth*float64(s.at.Sub(first))/float64(max(c.since, 1)))
	}
	return c
}

func (c canvas) plot(title, most, label string, layers ...layer) plot {
	return plot{Title: title, Max: zeros.Replace(most), Since: span(c.since), Label: label, Layers: layers, Width: plotWidth, Height: plotHeight}
}

func (c canvas) y(v float64) float64 { return plotHeight * (1 - v/c.most) }

// line connects one value for each sample. If it is an area it is closed along the
// lower edge.
func (c canvas) line(values []float64, area bool) string {
	var b pathBuilder
	for i, v := range values {
		b.to(c.at[i], c.y(v))
	}
	if area {
		b.to(c.at[len(values)-1], plotHeight)
		b.to(c.at[0], plotHeight)
	}
	return b.String()
}

// steps draws one value for each time between two samples, over which it is the
// average.
func (c canvas) steps(values []float64) string {
	var b pathBuilder
	for i, v := range values {
		b.to(c.at[i], c.y(v))
		b.to(c.at[i+1], c.y(v))
	}
	return b.String()
}

// band is the area between two lines of steps.
func (c canvas) band(below, above []float64) string {
	var b pathBuilder
	for i, v := range above {
		b.to(c.at[i], c.y(v))
		b.to(c.at[i+1], c.y(v))
	}
	for i, v := range slices.Backward(below) {
		b.to(c.at[i+1], c.y(v))
		b.to(c.at[i], c.y(v))
	}
	return b.String()
}

// A pathBuilder writes the d attribute of a path.
type pathBuilder struct{ strings.Builder }

func (b *pathBuilder) to(x, y float64) {
	command := byte('L')
	if b.Len() == 0 {
		command = 'M'
	}
	fmt.Fprintf(b, "%c%.1f %.1f", command, x, y)
}
