package metrics_test

import (
	"net/http"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A scrape is the response to one request for metrics, read by Prometheus's own
// parser.
type scrape map[string]*dto.MetricFamily

func take(t *testing.T, url string) scrape {
	t.Helper()
	res, err := http.Get(url)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, http.StatusOK, res.StatusCode)
	assert.Equal(t, expfmt.TypeTextPlain, expfmt.ResponseFormat(res.Header).FormatType(), "%s", res.Header.Get("Content-Type"))
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(res.Body)
	require.NoError(t, err)
	return families
}

// values returns the counters and gauges by name and labels.
func (s scrape) values() map[string]float64 {
	values := map[string]float64{}
	for name, family := range s {
		for _, m := range family.Metric {
			switch family.GetType() {
			case dto.MetricType_COUNTER:
				values[series(name, m)] = m.Counter.GetValue()
			case dto.MetricType_GAUGE:
				values[series(name, m)] = m.Gauge.GetValue()
			}
		}
	}
	return values
}

// counters returns the counters by name and labels.
func (s scrape) counters() map[string]float64 {
	counters := s.values()
	for key := range counters {
		if name, _, _ := strings.Cut(key, "{"); s[name].GetType() != dto.MetricType_COUNTER {
			delete(counters, key)
		}
	}
	return counters
}

// sum returns the sum of a metric over its labels.
func (s scrape) sum(name string) (sum float64) {
	for key, value := range s.values() {
		if n, _, _ := strings.Cut(key, "{"); n == name {
			sum += value
		}
	}
	return sum
}

func series(name string, m *dto.Metric) string {
	var labels []string
	for _, l := range m.Label {
		labels = append(labels, l.GetName()+"="+l.GetValue())
	}
	return name + "{" + strings.Join(labels, ",") + "}"
}
