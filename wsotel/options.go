package wsotel

import (
	"errors"
	"fmt"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// An Option configures [Observe] and [Hooks].
type Option interface{ apply(*config) }

type config struct {
	provider metric.MeterProvider
	attrs    []attribute.KeyValue
}

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

// WithMeterProvider sets the provider of the meter. The default is the global one,
// see [otel.SetMeterProvider]. A provider of nil is an error.
func WithMeterProvider(provider metric.MeterProvider) Option {
	return optionFunc(func(c *config) { c.provider = provider })
}

// WithAttributes adds attributes to all metrics. Several proxies need one that
// tells them apart. If the option is given twice, the attributes of both are added.
func WithAttributes(attrs ...attribute.KeyValue) Option {
	return optionFunc(func(c *config) { c.attrs = append(c.attrs, attrs...) })
}

// newMeter returns the meter that opts ask for, and the attributes.
func newMeter(opts []Option) (metric.Meter, []attribute.KeyValue, error) {
	c := config{provider: otel.GetMeterProvider()}
	for i, opt := range opts {
		if opt == nil {
			return nil, nil, fmt.Errorf("wsotel: option %d is nil", i+1)
		}
		opt.apply(&c)
	}
	if c.provider == nil {
		return nil, nil, errors.New("wsotel: WithMeterProvider: provider nil")
	}
	return c.provider.Meter("example.com/wsproxy/wsotel"), c.attrs, nil
}
