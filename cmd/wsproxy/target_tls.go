package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
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
		pem, err := os.ReadFile(v.targetCA)
		if err != nil {
			return fmt.Errorf("-target-ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("-target-ca: %q has no PEM certificate", v.targetCA)
		}
	}
	v.options = append(v.options, wsproxy.WithTLSConfig(config))
	return nil
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
