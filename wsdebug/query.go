package wsdebug

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	defaultRows = 200
	maxRows     = 1000
	maxRefresh  = 3600 // seconds
	maxValue    = 4096 // bytes of one parameter
	maxQuery    = 8 * maxValue
)

// A query is the parsed query of a request. values has its parameters, except empty
// ones.
type query struct {
	raw    string
	values map[string]string

	server  string
	ip      netip.Prefix
	path    string
	older   time.Duration
	sort    column
	reverse bool
	n       int
	refresh int // seconds; 0: never
	json    bool
}

// parameters are the names that a query may have, in the order of links.
var parameters = []string{"proxy", "server", "ip", "path", "older", "sort", "n", "refresh", "format"}

// actionParameters select a question before an action, or the report after it. They
// belong to one page and are not in its links.
var actionParameters = []string{"close", "drain", "closed", "drained"}

// parseQuery returns the query of a request, and one error for all its mistakes.
// It returns the values also if there is an error, for the form.
func parseQuery(raw string, names []string) (query, error) {
	q := query{raw: raw, values: make(map[string]string), sort: columns[0], n: defaultRows}
	if len(raw) > maxQuery {
		return q, fmt.Errorf("the query has %d bytes: want at most %d", len(raw), maxQuery)
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return q, fmt.Errorf("the query cannot be parsed: %w", err)
	}
	if len(values) > 2*len(names) {
		return q, fmt.Errorf("the query has %d parameters: want some of %s", len(values), strings.Join(names, ", "))
	}
	var errs []error
	for name, given := range values {
		switch {
		case !slices.Contains(names, name):
			errs = append(errs, fmt.Errorf("unknown parameter %s: want one of %s", quote(name), strings.Join(names, ", ")))
		case len(given) > 1:
			errs = append(errs, fmt.Errorf("%s is given %d times: want it once", name, len(given)))
		case len(given[0]) > maxValue:
			errs = append(errs, fmt.Errorf("%s has %d bytes: want at most %d", name, len(given[0]), maxValue))
		case given[0] != "":
			q.values[name] = given[0]
		}
	}
	q.server, q.path = q.values["server"], q.values["path"]
	for name, set := range map[string]func(string) error{
		"ip": q.setIP, "older": q.setOlder, "sort": q.setSort, "format": q.setFormat,
		"n":       func(s string) error { return setNumber(&q.n, "n", s, maxRows, "") },
		"refresh": func(s string) error { return setNumber(&q.refresh, "refresh", s, maxRefresh, " seconds") },
	} {
		if value, ok := q.values[name]; ok {
			errs = append(errs, set(value))
		}
	}
	slices.SortFunc(errs, compareErrors)
	return q, errors.Join(errs...)
}

// compareErrors makes the order of the messages independent of a map's.
func compareErrors(a, b error) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) }

func (q *query) setIP(s string) error {
	if ip, err := netip.ParseAddr(s); err == nil && ip.Zone() == "" {
		ip = ip.Unmap()
		q.ip = netip.PrefixFrom(ip, ip.BitLen())
		return nil
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return fmt.Errorf("ip is %s: want an address or a prefix, such as 192.0.2.1 or 2001:db8::/64", quote(s))
	}
	if ip := prefix.Addr(); ip.Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(ip.Unmap(), prefix.Bits()-96)
	}
	q.ip = prefix.Masked()
	return nil
}

func (q *query) setOlder(s string) (err error) {
	if q.older, err = time.ParseDuration(s); err != nil || q.older < 0 {
		return fmt.Errorf("older is %s: want a duration such as 90s, 10m or 1h30m", quote(s))
	}
	return nil
}

func (q *query) setSort(s string) error {
	name, reverse := strings.CutPrefix(s, "-")
	i := slices.IndexFunc(columns, func(c column) bool { return c.name == name })
	if i < 0 {
		names := make([]string, len(columns))
		for i, c := range columns {
			names[i] = c.name
		}
		return fmt.Errorf(`sort is %s: want one of %s, with "-" before it for the largest first`, quote(s), strings.Join(names, ", "))
	}
	q.sort, q.reverse = columns[i], reverse
	return nil
}

func (q *query) setFormat(s string) error {
	if s != "json" && s != "html" {
		return fmt.Errorf("format is %s: want html or json", quote(s))
	}
	q.json = s == "json"
	return nil
}

func setNumber(to *int, name, s string, most int, unit string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > most {
		return fmt.Errorf("%s is %s: want a number from 0 to %d%s", name, quote(s), most, unit)
	}
	*to = n
	return nil
}

// filtered reports whether q asks for fewer tunnels than all.
func (q query) filtered() bool {
	return q.server != "" || q.ip.IsValid() || q.path != "" || q.older > 0
}

// link returns a relative URL of q's page with parameters changed: pairs of a
// name and a value, which is empty to leave the parameter out. Without a path, the
// link is right wherever the handler is mounted.
func (q query) link(fragment string, pairs ...string) string {
	values := maps.Clone(q.values)
	for _, name := range actionParameters {
		delete(values, name)
	}
	for i := 0; i < len(pairs); i += 2 {
		values[pairs[i]] = pairs[i+1]
	}
	var b strings.Builder
	for _, name := range slices.Concat(parameters, actionParameters) {
		if value := values[name]; value != "" {
			b.WriteByte("?&"[min(b.Len(), 1)])
			b.WriteString(name + "=" + url.QueryEscape(value))
		}
	}
	if b.Len() == 0 {
		b.WriteByte('?') // an empty URL would keep the query
	}
	if fragment != "" {
		b.WriteString("#" + fragment)
	}
	return b.String()
}
