package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// A cluster on one's own machine is not worth the renewal of certificates.
const validity = 10 * 365 * 24 * time.Hour

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

type leaf struct {
	file, name, organization string
	dns                      []string
	ips                      []net.IP
}

// makePKI writes every certificate, key and the service account key pair of a cluster to a
// folder: each authority has a key of its own, so that a client of one is nobody to the others.
func makePKI(args []string) error {
	flags := flag.NewFlagSet("pki", flag.ContinueOnError)
	folder := flags.String("folder", "", "where the files go")
	node := flags.String("node", "", "name of the node")
	address := flags.String("address", "", "IP address of the node")
	service := flags.String("service-address", "", "cluster IP of the API server")
	if err := flags.Parse(args); err != nil {
		return err
	}
	nodeIP, serviceIP := net.ParseIP(*address), net.ParseIP(*service)
	if *folder == "" || *node == "" || nodeIP == nil || serviceIP == nil {
		return fmt.Errorf("pki needs --folder, --node, --address and --service-address")
	}
	loopback := net.IPv4(127, 0, 0, 1)
	local := []net.IP{loopback, nodeIP}
	trees := map[string][]leaf{
		"ca": {
			{file: "apiserver", name: "kube-apiserver", ips: append(local, serviceIP), dns: []string{
				"localhost", *node, "kubernetes", "kubernetes.default", "kubernetes.default.svc",
				"kubernetes.default.svc.cluster.local"}},
			{file: "apiserver-kubelet-client", name: "kube-apiserver-kubelet-client", organization: "system:masters"},
			{file: "admin", name: "kubernetes-admin", organization: "system:masters"},
			{file: "controller-manager", name: "system:kube-controller-manager"},
			{file: "scheduler", name: "system:kube-scheduler"},
			{file: "proxy", name: "system:kube-proxy"},
			{file: "kubelet", name: "system:node:" + *node, organization: "system:nodes",
				ips: local, dns: []string{*node}},
		},
		"etcd-ca": {
			{file: "etcd", name: "etcd", ips: []net.IP{loopback}, dns: []string{"localhost"}},
			{file: "apiserver-etcd-client", name: "kube-apiserver-etcd-client"},
		},
		"front-proxy-ca": {{file: "front-proxy-client", name: "front-proxy-client"}},
	}
	if err := os.MkdirAll(*folder, 0o700); err != nil {
		return err
	}
	for name, leaves := range trees {
		if err := makeTree(*folder, name, leaves); err != nil {
			return err
		}
	}
	return makeServiceAccountKeys(*folder)
}

func makeTree(folder, name string, leaves []leaf) error {
	ca, err := makeAuthority(folder, name)
	if err != nil {
		return err
	}
	for _, l := range leaves {
		template := &x509.Certificate{
			Subject:     pkix.Name{CommonName: l.name},
			DNSNames:    l.dns,
			IPAddresses: l.ips,
			KeyUsage:    x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		}
		if l.organization != "" {
			template.Subject.Organization = []string{l.organization}
		}
		if _, err := issue(folder, l.file, template, ca); err != nil {
			return err
		}
	}
	return nil
}

func makeAuthority(folder, name string) (*authority, error) {
	return issue(folder, name, &x509.Certificate{
		Subject:               pkix.Name{CommonName: "byok8s " + name},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}, nil)
}

// issue signs the template with the authority, or with itself when there is none, and writes
// file.crt and file.key.
func issue(folder, file string, template *x509.Certificate, ca *authority) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126)); err != nil {
		return nil, err
	}
	// An hour back: the machine's clock may be corrected right after its start.
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = time.Now().Add(validity)
	parent := &authority{certificate: template, key: key}
	if ca != nil {
		parent = ca
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.certificate, &key.PublicKey, parent.key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if err := writePEM(folder, file+".crt", "CERTIFICATE", der, 0o644); err != nil {
		return nil, err
	}
	return &authority{certificate: certificate, key: key}, writeKey(folder, file+".key", key)
}

func makeServiceAccountKeys(folder string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	if err := writePEM(folder, "sa.pub", "PUBLIC KEY", public, 0o644); err != nil {
		return err
	}
	return writeKey(folder, "sa.key", key)
}

func writeKey(folder, file string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(folder, file, "EC PRIVATE KEY", der, 0o600)
}

func writePEM(folder, file, kind string, der []byte, mode os.FileMode) error {
	block := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	return os.WriteFile(filepath.Join(folder, file), block, mode)
}
