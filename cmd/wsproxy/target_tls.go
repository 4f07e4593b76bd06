package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"example.com/wsproxy"
)

// trust adds the option for -target-ca or -target-insecure.
func (v *service) trust() error {
	config := &tls.Config{InsecureSkipVerify: v.targetInsecure}
	switch {
	case v.targetInsecure:
		v.log.Warn("-target-insecure: the certificates of the targets are not verified; " +
			"anyone on the way to them can read and change everything; use -target-ca")
	case v.targetCA == "":
		return nil
	default:
		data, err := os.ReadFile(v.targetCA)
		if err != nil {
			return fmt.Errorf("-target-ca: %w", err)
		}
		if config.RootCAs, err = certPool(data); err != nil {
			return fmt.Errorf("-target-ca: %q %w", v.targetCA, err)
		}
	}
	v.options = append(v.options, wsproxy.WithTLSConfig(config))
	return nil
}

// certPool returns the certificates of a PEM file. x509's AppendCertsFromPEM
// skips those that it cannot parse, and the target's may be one of them.
func certPool(data []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	n := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		n++
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("has a certificate (number %d) that cannot be parsed: %w", n, err)
		}
		pool.AddCert(cert)
	}
	switch marked := bytes.Count(data, []byte("-----BEGIN CERTIFICATE-----")); {
	case marked == 0:
		return nil, errors.New("has no PEM certificate")
	case marked != n:
		return nil, fmt.Errorf("has %d certificates, %d of them not valid PEM", marked, marked-n)
	}
	return pool, nil
}

// An adviser is a slog.Handler that adds a hint to the line of a request that
// failed because the target's certificate is not trusted.
type adviser struct{ slog.Handler }

func (a adviser) Handle(ctx context.Context, r slog.Record) error {
	hint := ""
	r.Attrs(func(attr slog.Attr) bool {
		if err, ok := attr.Value.Any().(error); ok {
			hint = certificateHint(err)
		}
		return hint == ""
	})
	if hint != "" {
		r = r.Clone()
		r.AddAttrs(slog.String("hint", hint))
	}
	return a.Handler.Handle(ctx, r)
}

func (a adviser) WithAttrs(attrs []slog.Attr) slog.Handler {
	return adviser{a.Handler.WithAttrs(attrs)}
}
func (a adviser) WithGroup(name string) slog.Handler { return adviser{a.Handler.WithGroup(name)} }

// certificateHint returns what to do about err, or "" if it is not about the
// target's certificate.
func certificateHint(err error) string {
	const orInsecure = ", or verify nothing with -target-insecure"
	switch {
	case errors.As(err, new(x509.UnknownAuthorityError)):
		return "trust the authority that signed the certificate with -target-ca file" + orInsecure
	case errors.As(err, new(x509.HostnameError)):
		return "write the target with a name that is in the certificate; -target-ca does not help" + orInsecure
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return "renew the target's certificate; -target-ca does not help" + orInsecure
	}
	return ""
}
