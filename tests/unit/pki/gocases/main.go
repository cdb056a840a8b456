// Gocases asks Go's standard library what it thinks of certificates: a JSON list of cases on stdin, a JSON list of
// answers, in the same order, on stdout. Keys that it is given never leave it.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// Case is a chain (leaf first) and the roots to verify it with. With a key, both ends of a TLS connection use it.
type Case struct {
	Chain string `json:"chain"`
	Roots string `json:"roots"`
	Name  string `json:"name"`
	At    int64  `json:"at"`
	Key   string `json:"key,omitempty"`
}

// Answer has no errors where all is well, and what Go read from the leaf.
type Answer struct {
	Parse    string   `json:"parse"`
	Server   string   `json:"server"`
	Client   string   `json:"client"`
	TLS      string   `json:"tls"`
	DNSNames []string `json:"dnsNames"`
	URIs     []string `json:"uris"`
	Emails   []string `json:"emails"`
}

func main() {
	var cases []Case
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		fmt.Fprintln(os.Stderr, "gocases: the input is not a list of cases")
		os.Exit(2)
	}
	answers := make([]Answer, 0, len(cases))
	for _, c := range cases {
		answers = append(answers, examine(c))
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		os.Exit(1)
	}
}

func examine(c Case) Answer {
	chain, err := parse(c.Chain)
	if err != nil {
		return Answer{Parse: err.Error()}
	}
	leaf := chain[0]
	a := Answer{DNSNames: leaf.DNSNames, Emails: leaf.EmailAddresses}
	for _, uri := range leaf.URIs {
		a.URIs = append(a.URIs, uri.String())
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(c.Roots))
	for _, authority := range chain[1:] {
		intermediates.AddCert(authority)
	}
	verify := func(usage x509.ExtKeyUsage, name string) string {
		_, err := leaf.Verify(x509.VerifyOptions{
			DNSName:       name,
			Roots:         roots,
			Intermediates: intermediates,
			CurrentTime:   time.Unix(c.At, 0),
			KeyUsages:     []x509.ExtKeyUsage{usage},
		})
		return text(err)
	}
	a.Server = verify(x509.ExtKeyUsageServerAuth, c.Name)
	a.Client = verify(x509.ExtKeyUsageClientAuth, "")
	if c.Key != "" {
		a.TLS = text(handshake(c, roots))
	}
	return a
}

// handshake is a mutual TLS 1.3 one between two ends that both show the chain.
func handshake(c Case, roots *x509.CertPool) error {
	pair, err := tls.X509KeyPair([]byte(c.Chain), []byte(c.Key))
	if err != nil {
		return errors.New("key and chain are no pair")
	}
	clock := func() time.Time { return time.Unix(c.At, 0) }
	near, far := net.Pipe()
	server := tls.Server(near, &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots,
		MinVersion: tls.VersionTLS13, Time: clock, SessionTicketsDisabled: true,
	})
	client := tls.Client(far, &tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: c.Name,
		MinVersion: tls.VersionTLS13, Time: clock,
	})
	deadline := time.Now().Add(5 * time.Second)
	near.SetDeadline(deadline)
	far.SetDeadline(deadline)
	served := make(chan error, 1)
	go func() { served <- server.Handshake() }()
	if err := client.Handshake(); err != nil {
		return err
	}
	return <-served
}

func parse(text string) ([]*x509.Certificate, error) {
	var found []*x509.Certificate
	for rest := bytes.TrimSpace([]byte(text)); len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("not PEM")
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		found = append(found, certificate)
	}
	if len(found) == 0 {
		return nil, errors.New("no certificate")
	}
	return found, nil
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
