package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A keyPair is the certificate of -tls-cert and its key. Handshakes read the
// files again, at most once a second, so that a renewal needs no restart. SIGHUP
// reads them at once. If the new pair cannot be used, the error is logged and the
// last pair stays.
type keyPair struct {
	certFile, keyFile string
	log               *slog.Logger
	current           atomic.Pointer[tls.Certificate]

	mu        sync.Mutex // held while the files are read
	sums      [2][sha256.Size]byte
	readAt    time.Time
	complaint string // the last one that was logged; "" if the files are those of current
}

// newKeyPair returns the pair of two files.
func newKeyPair(certFile, keyFile string, log *slog.Logger) (*keyPair, error) {
	k := &keyPair{certFile: certFile, keyFile: keyFile, log: log}
	k.mu.Lock()
	defer k.mu.Unlock()
	pair, err := k.load()
	if err != nil {
		return nil, fmt.Errorf("-tls-cert, -tls-key: %w", err)
	}
	if err := inTime(pair); err != nil {
		log.Warn("serving a certificate that clients refuse", "error", err)
	}
	k.current.Store(pair)
	return k, nil
}

// load reads the files. It returns nothing if they have not changed since the
// last pair that it returned. mu is held.
//
// It compares their content, not their times: an installer may keep these, and
// a symbolic link may change anywhere in the path.
func (k *keyPair) load() (*tls.Certificate, error) {
	k.readAt = time.Now()
	cert, err := os.ReadFile(k.certFile)
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(k.keyFile)
	if err != nil {
		return nil, err
	}
	sums := [2][sha256.Size]byte{sha256.Sum256(cert), sha256.Sum256(key)}
	if sums == k.sums {
		return nil, nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	if bytes.Count(cert, []byte("-----BEGIN CERTIFICATE-----")) != len(pair.Certificate) {
		return nil, errors.New("a certificate of the chain is not whole") // tls.X509KeyPair drops it
	}
	if k.current.Load() != nil {
		if err := inTime(&pair); err != nil {
			return nil, err
		}
	}
	k.sums = sums
	return &pair, nil
}

// inTime returns an error if the certificate has expired or is not valid yet.
func inTime(pair *tls.Certificate) error {
	switch now := time.Now(); {
	case now.After(pair.Leaf.NotAfter):
		return fmt.Errorf("the certificate has expired at %s", pair.Leaf.NotAfter.Format(time.RFC3339))
	case now.Before(pair.Leaf.NotBefore):
		return fmt.Errorf("the certificate is not valid before %s", pair.Leaf.NotBefore.Format(time.RFC3339))
	}
	return nil
}

// refresh makes the pair of the files current. It logs each new complaint once.
// mu is held.
func (k *keyPair) refresh() {
	pair, err := k.load()
	if err != nil {
		if err.Error() != k.complaint {
			k.complaint = err.Error()
			k.log.Warn("cannot use the new certificate, keeping the last one", "error", err)
		}
		return
	}
	k.complaint = ""
	if pair != nil {
		k.current.Store(pair)
		k.log.Info("new certificate", "names", pair.Leaf.DNSNames, "expires", pair.Leaf.NotAfter)
	}
}

// get is for tls.Config.GetCertificate. While one handshake reads the files, the
// others use the last pair.
func (k *keyPair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if k.mu.TryLock() {
		if time.Since(k.readAt) >= time.Second {
			k.refresh()
		}
		k.mu.Unlock()
	}
	return k.current.Load(), nil
}

// reload is for SIGHUP. Unlike refresh, it always logs the result.
func (k *keyPair) reload() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.complaint = ""
	before := k.current.Load()
	if k.refresh(); k.complaint == "" && k.current.Load() == before {
		k.log.Info("the certificate has not changed")
	}
}

// withoutHangups returns the signals that end the command. With a certificate it
// reloads that at SIGHUP until ctx is done. No signal waits while the files are
// read, which can take for ever on a network file system.
func (v *service) withoutHangups(ctx context.Context, signals <-chan os.Signal) <-chan os.Signal {
	if v.pair == nil {
		return signals
	}
	ends, hangups := make(chan os.Signal, 2), make(chan struct{}, 1)
	go func() {
		for {
			select {
			case <-hangups:
				if ctx.Err() == nil { // select takes either if both are ready
					v.pair.reload()
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	go func() {
		for {
			select {
			case s := <-signals:
				if s == syscall.SIGHUP {
					select {
					case hangups <- struct{}{}:
					default: // the files will be read after this one, too
					}
					continue
				}
				select {
				case ends <- s:
				default: // two are enough
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return ends
}
