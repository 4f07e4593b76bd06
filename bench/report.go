package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// A report is everything that was measured, as results.json holds it.
type report struct {
	Machine  machine           `json:"machine"`
	Rounds   int               `json:"rounds"`
	Window   float64           `json:"windowSeconds"`
	Quick    bool              `json:"quick,omitempty"`
	Peers    []string          `json:"peers"`
	Versions map[string]string `json:"versions"`
	Notes    []string          `json:"notes,omitempty"`
	Medians  []summary         `json:"medians"`
	Verdicts []verdict         `json:"targets"`
	Samples  []sample          `json:"samples"`
}

// A machine is what the figures were taken on.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Kernel string `json:"kernel"`
	Pinned bool   `json:"pinned"`
}

// A summary is one figure over all rounds.
type summary struct {
	Transport string  `json:"transport"`
	Measure   string  `json:"measure"`
	Metric    string  `json:"metric"`
	Unit      string  `json:"unit"`
	Peer      string  `json:"peer"`
	Median    float64 `json:"median"`
	Low       float64 `json:"low"`
	High      float64 `json:"high"`
}

// finish works out medians and verdicts from the samples.
func (r *report) finish(transports []string) {
	cells := collect(r.Samples)
	r.Verdicts = judge(cells)
	for _, transport := range transports {
		for _, m := range measures {
			for _, metric := range m.metrics {
				for _, peer := range r.Peers {
					if s := cells[cell{transport, m.name, metric.name, peer}]; len(s) > 0 {
						mid, low, high := s.summary()
						r.Medians = append(r.Medians, summary{transport, m.name, metric.name, metric.unit, peer, mid, low, high})
					}
				}
			}
		}
	}
}

// figure returns a summary.
func (r *report) figure(c cell) (summary, bool) {
	for _, s := range r.Medians {
		if (cell{s.Transport, s.Measure, s.Metric, s.Peer}) == c {
			return s, true
		}
	}
	return summary{}, false
}

// write puts results.json and the plots into a directory.
func (r *report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "results.json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	return r.plot(dir)
}

// print writes the table.
func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s, %d cores, Linux %s; ", r.Machine.CPU, r.Machine.Cores, r.Machine.Kernel)
	if r.Machine.Pinned {
		fmt.Fprint(w, "the proxy on one core, load and upstream on another\n")
	} else {
		fmt.Fprint(w, "nothing pinned\n")
	}
	if r.Quick {
		fmt.Fprintln(w, "A QUICK RUN: few connections, few tunnels, short windows. These figures mean nothing.")
	}
	fmt.Fprintf(w, "medians, ± half of what lies between the least and the greatest; rounds: %d, window: %gs\n", r.Rounds, r.Window)
	for _, peer := range r.Peers {
		if v := r.Versions[peer]; v != "" {
			fmt.Fprintf(w, "%s: %s\n", peer, v)
		}
	}
	for _, note := range r.Notes {
		fmt.Fprintln(w, note)
	}
	for _, transport := range []string{"plain", "tls", "h2"} {
		r.printTransport(w, transport)
	}
	r.printVerdicts(w)
}

const (
	labelWidth = 24
	cellWidth  = 13
)

func (r *report) printTransport(w io.Writer, transport string) {
	var rows strings.Builder
	for _, m := range measures {
		title := m.label + "\n"
		for _, metric := range m.metrics {
			row, any := pad("  "+metric.note, labelWidth), false
			for _, peer := range r.Peers {
				text := "–"
				if s, ok := r.figure(cell{transport, m.name, metric.name, peer}); ok {
					text, any = format(s), true
				}
				row += padLeft(text, cellWidth)
			}
			if any {
				rows.WriteString(title + row + "\n")
				title = ""
			}
		}
	}
	if rows.Len() == 0 {
		return
	}
	head := pad(map[string]string{"plain": "TCP", "tls": "TLS at the proxy", "h2": "HTTP/2, 10 connections"}[transport], labelWidth)
	for _, peer := range r.Peers {
		head += padLeft(strings.Replace(peer, "wsproxy-", "-", 1), cellWidth)
	}
	fmt.Fprintf(w, "\n%s\n%s", head, rows.String())
}

func (r *report) printVerdicts(w io.Writer) {
	if len(r.Verdicts) == 0 {
		return
	}
	fmt.Fprintln(w, "\ntargets")
	for _, v := range r.Verdicts {
		unit, sign, word := "", "≤", "met"
		if v.Against != "" {
			unit = " × " + v.Against
		}
		if v.Least {
			sign = "≥"
		}
		if !v.Met {
			word = "MISSED"
		}
		fmt.Fprintf(w, "  %s %7.2f%s  %s %.2f  %s\n", pad(v.Target+", "+v.Transport, 50), v.Value, pad(unit, 11), sign, v.Bound, word)
	}
}

// format writes a figure and its spread.
func format(s summary) string {
	text := significant(s.Median)
	if s.Low != s.High && s.Median != 0 {
		text += fmt.Sprintf(" ±%.0f%%", 50*(s.High-s.Low)/s.Median)
	}
	return text
}

// significant writes three digits or all that stand before the point.
func significant(v float64) string {
	switch {
	case v >= 100 || v <= -100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10 || v <= -10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func pad(s string, width int) string { return s + space(s, width) }

func padLeft(s string, width int) string { return space(s, width) + s }

func space(s string, width int) string {
	return strings.Repeat(" ", max(width-utf8.RuneCountInString(s), 1))
}
