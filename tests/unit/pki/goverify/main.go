// goverify CHAIN ROOTS NAME: verify a chain as Go's crypto/tls does, for a server of that name and for a client.
package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
)

func read(path string) []*x509.Certificate {
	text, err := os.ReadFile(path)
	check(err)
	var found []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		check(err)
		found = append(found, certificate)
	}
	return found
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	chain, roots, intermediates := read(os.Args[1]), x509.NewCertPool(), x509.NewCertPool()
	for _, root := range read(os.Args[2]) {
		roots.AddCert(root)
	}
	for _, certificate := range chain[1:] {
		intermediates.AddCert(certificate)
	}
	server := x509.VerifyOptions{Roots: roots, Intermediates: intermediates, DNSName: os.Args[3]}
	_, err := chain[0].Verify(server)
	check(err)
	client := x509.VerifyOptions{Roots: roots, Intermediates: intermediates,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	_, err = chain[0].Verify(client)
	check(err)
}
