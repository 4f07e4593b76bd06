package main

import (
	"bytes"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// A drawing is one SVG: panels side by side.
type drawing struct {
	file   string
	panels []panel
}

// A panel shows one figure of all peers, scaled.
type panel struct {
	title                      string
	transport, measure, metric string
	scale                      float64
}

func drawings() []drawing {
	cpu := func(transport string) []panel {
		return []panel{
			{"CPU, 128 B, 64 connections, µs", transport, "rt-128-64", "cpu", 1},
			{"CPU, 128 B, 1000 connections, µs", transport, "rt-128-1000", "cpu", 1},
			{"CPU, 64 KiB, µs", transport, "rt-64k-16", "cpu", 1},
			{"CPU, 1 MiB, ms", transport, "rt-1m-4", "cpu", 1e-3},
		}
	}
	return []drawing{
		{"cpu.svg", cpu("plain")},
		{"cpu-tls.svg", cpu("tls")},
		{"throughput.svg", []panel{
			{"Stream, GB/s", "plain", "stream", "mbps", 1e-3},
			{"Stream over TLS, GB/s", "tls", "stream", "mbps", 1e-3},
			{"64 KiB, 1000 round trips/s", "plain", "rt-64k-16", "rate", 1e-3},
		}},
		{"latency.svg", []panel{
			{"Latency p50, 1 connection, µs", "plain", "rt-128-1", "p50", 1},
			{"Latency p99, 1 connection, µs", "plain", "rt-128-1", "p99", 1},
			{"Latency p99, 64 connections, µs", "plain", "rt-128-64", "p99", 1},
			{"Latency p99, 1000 connections, ms", "plain", "rt-128-1000", "p99", 1e-3},
		}},
		{"handshake.svg", []panel{
			{"CPU a handshake, µs", "plain", "handshake", "cpu", 1},
			{"CPU a handshake, TLS, µs", "tls", "handshake", "cpu", 1},
		}},
		{"memory.svg", []panel{
			{"Memory an idle tunnel, kB", "plain", "idle", "many", 1},
			{"Memory an idle tunnel, TLS, kB", "tls", "idle", "many", 1},
		}},
	}
}

var (
	ours   = color.RGBA{0x1f, 0x6f, 0xb4, 0xff}
	theirs = color.RGBA{0xb4, 0xba, 0xc2, 0xff}
	ink    = color.RGBA{0x24, 0x29, 0x2f, 0xff}
	rule   = color.RGBA{0xd8, 0xdc, 0xe0, 0xff}
)

// plot draws all plots for which there are figures.
func (r *report) plot(dir string) error {
	for _, d := range drawings() {
		svg, err := r.draw(d)
		if err != nil {
			return err
		}
		path := filepath.Join(dir, d.file)
		if svg == nil {
			os.Remove(path) // of an earlier run
			continue
		}
		if err := os.WriteFile(path, svg, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// draw returns a drawing, or nil if no panel has a figure.
func (r *report) draw(d drawing) ([]byte, error) {
	var plots []*plot.Plot
	rows := 0
	for _, panel := range d.panels {
		if names, figures := r.bars(panel); len(figures) > 0 {
			p, err := panel.plot(names, figures)
			if err != nil {
				return nil, err
			}
			plots, rows = append(plots, p), max(rows, len(figures))
		}
	}
	if len(plots) == 0 {
		return nil, nil
	}
	const panelWidth, rowHeight = 220, 20
	cols := min(len(plots), 2)
	lines := (len(plots) + cols - 1) / cols
	canvas := vgsvg.New(vg.Points(float64(cols)*1.4*panelWidth), vg.Points(float64(lines*(rows*rowHeight+44))))
	grid := make([][]*plot.Plot, lines)
	for i := range grid {
		grid[i] = make([]*plot.Plot, cols)
		copy(grid[i], plots[i*cols:min((i+1)*cols, len(plots))])
	}
	whole := draw.New(canvas)
	whole.SetColor(color.White)
	whole.Fill(whole.Rectangle.Path())
	tiles := draw.Tiles{Rows: lines, Cols: cols, PadX: vg.Points(16), PadY: vg.Points(12),
		PadTop: vg.Points(8), PadBottom: vg.Points(8), PadLeft: vg.Points(8), PadRight: vg.Points(8)}
	for i, line := range plot.Align(grid, tiles, whole) {
		for j, c := range line {
			if grid[i][j] != nil {
				grid[i][j].Draw(c)
			}
		}
	}
	var svg bytes.Buffer
	if _, err := canvas.WriteTo(&svg); err != nil {
		return nil, err
	}
	// Arial and Helvetica have the same widths, for systems without Liberation.
	return bytes.ReplaceAll(svg.Bytes(), []byte("font-family:Liberation Sans"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif")), nil
}

// bars returns the figures of a panel, from the bottom up.
func (r *report) bars(p panel) (names []string, figures []summary) {
	for _, peer := range slices.Backward(r.Peers) {
		s, ok := r.figure(cell{p.transport, p.measure, p.metric, peer})
		if !ok {
			continue
		}
		s.Median, s.Low, s.High = s.Median*p.scale, s.Low*p.scale, s.High*p.scale
		names, figures = append(names, strings.Replace(peer, "-", ", ", 1)), append(figures, s)
	}
	return names, figures
}

// plot draws horizontal bars with whiskers from the least to the greatest.
func (p panel) plot(names []string, figures []summary) (*plot.Plot, error) {
	style := text.Style{Color: ink, Font: font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Points(9)}, Handler: plot.DefaultTextHandler}
	pl := plot.New()
	pl.Title.Text = p.title
	pl.Title.Padding = vg.Points(4)
	pl.Title.TextStyle.Font = style.Font
	pl.Title.TextStyle.Font.Size = vg.Points(11)
	pl.Title.TextStyle.Color = ink
	var whiskers struct {
		plotter.XYs
		plotter.XErrors
	}
	var values plotter.XYLabels
	greatest := 0.0
	for i, s := range figures {
		bar, err := plotter.NewBarChart(plotter.Values{s.Median}, vg.Points(13))
		if err != nil {
			return nil, err
		}
		bar.Horizontal, bar.XMin, bar.LineStyle.Width, bar.Color = true, float64(i), 0, theirs
		if strings.HasPrefix(s.Peer, "wsproxy") {
			bar.Color = ours
		}
		pl.Add(bar)
		at := plotter.XY{X: s.Median, Y: float64(i)}
		if s.Low != s.High {
			whiskers.XYs = append(whiskers.XYs, at)
			whiskers.XErrors = append(whiskers.XErrors, struct{ Low, High float64 }{s.Median - s.Low, s.High - s.Median})
		}
		values.XYs = append(values.XYs, plotter.XY{X: s.High, Y: at.Y})
		values.Labels = append(values.Labels, significant(s.Median))
		greatest = max(greatest, s.High)
	}
	if len(whiskers.XYs) > 0 { // none with a single round
		bars, err := plotter.NewXErrorBars(whiskers)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.title, err)
		}
		bars.LineStyle = draw.LineStyle{Color: ink, Width: vg.Points(0.6)}
		bars.CapWidth = vg.Points(4)
		pl.Add(bars)
	}
	labels, err := plotter.NewLabels(values)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.title, err)
	}
	for i := range labels.TextStyle {
		labels.TextStyle[i] = style
		labels.TextStyle[i].YAlign = text.YCenter
	}
	labels.Offset = vg.Point{X: vg.Points(4), Y: vg.Points(1.5)}
	pl.Add(labels)
	pl.NominalY(names...)
	pl.Y.Tick.Label.Font, pl.Y.Tick.Label.Color = style.Font, ink
	pl.Y.LineStyle = draw.LineStyle{Color: rule, Width: vg.Points(1)}
	pl.Y.Tick.LineStyle.Width, pl.Y.Padding = 0, 0
	pl.Y.Min, pl.Y.Max = -0.5, float64(len(figures))-0.5
	pl.HideX()
	pl.X.Min, pl.X.Max = 0, max(greatest*1.25, 1e-9)
	return pl, nil
}
