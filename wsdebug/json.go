package wsdebug

import (
	"encoding/json"
	"io"
	"strconv"
	"time"

	"example.com/wsproxy"
)

// The types of this file are the JSON that Handler documents.

type jsonPage struct {
	Time    time.Time    `json:"time"`
	Proxy   string       `json:"proxy"`
	Proxies []string     `json:"proxies"`
	Stats   jsonStats    `json:"stats"`
	Rates   *jsonRates   `json:"rates"`
	Servers []jsonServer `json:"servers"`
	Matched int          `json:"matched"`
	Tunnels []jsonTunnel `json:"tunnels"`
}

type jsonStats struct {
	Handshakes   int              `json:"handshakes"`
	Live         int              `json:"live"`
	Opened       int64            `json:"opened"`
	Retries      int64            `json:"retries"`
	Closed       map[string]int64 `json:"closed"`
	Refused      map[string]int64 `json:"refused"`
	FromClient   jsonFlow         `json:"from_client"`
	FromUpstream jsonFlow         `json:"from_upstream"`
}

type jsonFlow struct {
	Bytes    int64 `json:"bytes"`
	Messages int64 `json:"messages"`
}

type jsonRates struct {
	Over         float64      `json:"over"`
	Opened       float64      `json:"opened"`
	Closed       float64      `json:"closed"`
	FromClient   jsonFlowRate `json:"from_client"`
	FromUpstream jsonFlowRate `json:"from_upstream"`
}

type jsonFlowRate struct {
	Bytes    float64 `json:"bytes"`
	Messages float64 `json:"messages"`
}

type jsonServer struct {
	Addr    string           `json:"addr"`
	Tunnels int              `json:"tunnels"`
	State   *jsonServerState `json:"state"`
}

type jsonServerState struct {
	Weight      int        `json:"weight"`
	MaxTunnels  int        `json:"max_tunnels"`
	MaxFails    *int       `json:"max_fails"`
	FailTimeout float64    `json:"fail_timeout"`
	Backup      bool       `json:"backup"`
	Down        bool       `json:"down"`
	Tunnels     int        `json:"tunnels"`
	Opened      int64      `json:"opened"`
	Failed      int64      `json:"failed"`
	Fails       int        `json:"fails"`
	DownUntil   *time.Time `json:"down_until"`
	Available   bool       `json:"available"`
}

type jsonTunnel struct {
	ID           uint64    `json:"id"`
	Client       string    `json:"client"`
	Host         string    `json:"host"`
	Path         string    `json:"path"`
	Server       string    `json:"server"`
	Protocol     string    `json:"protocol"`
	Subprotocol  string    `json:"subprotocol"`
	OpenedAt     time.Time `json:"opened_at"`
	LastActivity time.Time `json:"last_activity"`
	Age          float64   `json:"age"`
	Idle         float64   `json:"idle"`
	FromClient   jsonFlow  `json:"from_client"`
	FromUpstream jsonFlow  `json:"from_upstream"`
}

// jsonPath limits the bytes of a path in the JSON, to bound the response.
const jsonPath = 1024

func writeJSON(w io.Writer, h *page, s *state) error {
	out := jsonPage{
		Time: s.now.UTC(), Proxy: s.Name, Proxies: []string{}, Stats: statsJSON(s.stats),
		Servers: []jsonServer{}, Matched: s.matched, Tunnels: make([]jsonTunnel, len(s.rows)),
	}
	if r := current(s.history); r != nil {
		out.Rates = &jsonRates{r.over.Seconds(), r.opened, r.closed, jsonFlowRate(r.fromClient), jsonFlowRate(r.fromUpstream)}
	}
	if len(h.proxies) > 1 || s.Name != "" {
		for _, each := range h.proxies {
			out.Proxies = append(out.Proxies, each.Name)
		}
	}
	for _, each := range s.servers {
		out.Servers = append(out.Servers, jsonServer{each.addr, each.tunnels, stateJSON(each.set)})
	}
	for i, t := range s.rows {
		out.Tunnels[i] = jsonTunnel{
			ID: t.ID(), Host: t.Host(), Path: t.Path()[:min(len(t.Path()), jsonPath)], Server: t.Server(),
			Protocol: t.Protocol(), Subprotocol: t.Subprotocol(),
			OpenedAt: t.OpenedAt().UTC(), LastActivity: s.now.Add(-t.idle).UTC(), Age: t.age.Seconds(), Idle: t.idle.Seconds(),
			FromClient: jsonFlow(t.fromClient), FromUpstream: jsonFlow(t.fromUpstream),
		}
		if t.client.IsValid() {
			out.Tunnels[i].Client = t.client.String()
		}
	}
	return json.NewEncoder(w).Encode(out)
}

func statsJSON(s wsproxy.Stats) jsonStats {
	out := jsonStats{
		Handshakes: s.Handshakes, Live: s.Live, Opened: s.Opened, Retries: s.Retries,
		Closed: make(map[string]int64), Refused: make(map[string]int64),
		FromClient: jsonFlow(s.FromClient), FromUpstream: jsonFlow(s.FromUpstream),
	}
	for reason, n := range s.ClosedByReason() {
		out.Closed[reasonName(reason)] = n
	}
	for status, n := range s.RefusedByStatus() {
		out.Refused[strconv.Itoa(status)] = n
	}
	return out
}

func stateJSON(s *wsproxy.ServerState) *jsonServerState {
	if s == nil {
		return nil
	}
	out := &jsonServerState{
		Weight: s.Weight, MaxTunnels: s.MaxTunnels, FailTimeout: s.FailTimeout.Seconds(), Backup: s.Backup, Down: s.Down,
		Tunnels: s.Tunnels, Opened: s.Opened, Failed: s.Failed, Fails: s.Fails, Available: s.Available,
	}
	if s.MaxFails != wsproxy.NeverDown {
		out.MaxFails = &s.MaxFails
	}
	if !s.DownUntil.IsZero() {
		until := s.DownUntil.UTC()
		out.DownUntil = &until
	}
	return out
}

func writeJSONError(w io.Writer, err error) {
	json.NewEncoder(w).Encode(struct {
		Error string `json:"error"`
	}{err.Error()})
}
