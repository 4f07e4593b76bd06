package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func sampleReport() *report {
	r := &report{Rounds: 3, Peers: []string{"direct", "wsproxy", "nginx"}, Versions: map[string]string{"nginx": "nginx/1"}}
	for round := range 3 {
		for i, peer := range r.Peers {
			values := map[string]float64{"rate": float64(1000 * (round + 1))}
			if peer != "direct" {
				values["cpu"] = float64(10*i + round)
			}
			r.Samples = append(r.Samples, sample{Round: round, Transport: "plain", Measure: "rt-128-64", Peer: peer, Values: values})
		}
	}
	r.finish([]string{"plain", "tls"})
	return r
}

func TestTheTableHasMediansAndTargets(t *testing.T) {
	var table strings.Builder
	sampleReport().print(&table)
	for _, want := range []string{"128 B, 64 connections", "2000 ±50%", "11.0 ±9%", "0.52 × nginx", "≤ 1.00  met", "nginx: nginx/1"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, &table)
		}
	}
	if strings.Contains(table.String(), "TLS at") {
		t.Errorf("the table has a part without figures:\n%s", &table)
	}
}

func TestFilesAreWellFormed(t *testing.T) {
	dir := t.TempDir()
	if err := sampleReport().write(dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	var back report
	if err := json.Unmarshal(text, &back); err != nil || len(back.Samples) != 9 {
		t.Errorf("results.json reads as %d samples, %v", len(back.Samples), err)
	}
	plots, _ := filepath.Glob(filepath.Join(dir, "*.svg"))
	if len(plots) != 1 || filepath.Base(plots[0]) != "cpu.svg" {
		t.Fatalf("plotted %v, want cpu.svg alone", plots)
	}
	svg, err := os.ReadFile(plots[0])
	if err != nil {
		t.Fatal(err)
	}
	decoder := xml.NewDecoder(bytes.NewReader(svg))
	for {
		if _, err := decoder.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("%s: %v", plots[0], err)
		}
	}
}
