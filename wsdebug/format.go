package wsdebug

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"example.com/wsproxy"
)

// visible returns at most n characters of s, which a client may have chosen, so
// that a reader sees what is there. Control and format characters (bidirectional
// overrides, zero-width spaces), invalid UTF-8 and all but two combining marks in
// a row appear as Go escapes. An ellipsis takes the place of what is left out.
func visible(s string, n int) string {
	var b strings.Builder
	marks := 0
	for i, r := range s {
		if n--; n < 0 {
			return b.String() + "…"
		}
		if marks++; !unicode.Is(unicode.M, r) {
			marks = 0
		}
		switch size := utf8.RuneLen(r); {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\\':
			b.WriteString(`\\`)
		case unicode.IsPrint(r) && marks <= 2:
			b.WriteString(s[i : i+size])
		default:
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
	}
	return b.String()
}

// quote returns a value of the query for an error message.
func quote(s string) string { return `"` + visible(s, 64) + `"` }

// count returns n with commas between its thousands: 12,345.
func count[N int | int64 | uint64](n N) string {
	s := strconv.FormatInt(int64(n), 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// amount returns n things, of which noun is one: 1 tunnel, 2,000 tunnels.
func amount[N int | int64](n N, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return count(n) + " " + noun
}

// reasonName returns r as one word, for JSON and labels: client_closed.
func reasonName(r wsproxy.Reason) string { return strings.ReplaceAll(r.String(), " ", "_") }

// scaled returns v with three digits and a prefix of the unit: 1.23 k.
func scaled(v float64, prefixes ...string) (digits, prefix string) {
	i := 0
	for ; i+1 < len(prefixes) && v >= 999.5; i++ {
		v /= 1000
	}
	switch {
	case v < 9.995 && (i > 0 || v != math.Trunc(v)):
		digits = strconv.FormatFloat(v, 'f', 2, 64)
	case v < 99.95 && (i > 0 || v != math.Trunc(v)):
		digits = strconv.FormatFloat(v, 'f', 1, 64)
	default:
		digits = strconv.FormatFloat(v, 'f', 0, 64)
	}
	return digits, prefixes[i]
}

// byteCount returns n bytes in decimal units: 1.23 MB.
func byteCount(n int64) string { return byteSize(float64(n)) }

func byteSize(v float64) string {
	digits, unit := scaled(v, "B", "kB", "MB", "GB", "TB", "PB")
	return digits + "\u00a0" + unit
}

// perSecond returns a rate of things without a unit: 1.50/s.
func perSecond(v float64) string {
	if v >= 99.95 {
		return count(int64(math.Round(v))) + "/s"
	}
	digits, _ := scaled(v, "")
	return digits + "/s"
}

func bytesPerSecond(v float64) string { return byteSize(v) + "/s" }

// span returns d in its two largest units: 2 d 4 h.
func span(d time.Duration) string {
	d = max(d, 0).Truncate(time.Second)
	units := []struct {
		name string
		size time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"min", time.Minute}, {"s", time.Second}}
	var parts []string
	for i, u := range units {
		if n := d / u.size; n > 0 {
			parts = append(parts, fmt.Sprintf("%d\u00a0%s", n, u.name))
			if rest := d % u.size; i+1 < len(units) && rest >= units[i+1].size {
				parts = append(parts, fmt.Sprintf("%d\u00a0%s", rest/units[i+1].size, units[i+1].name))
			}
			return strings.Join(parts, " ")
		}
	}
	return "0\u00a0s"
}
