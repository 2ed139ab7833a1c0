//go:build cluster

package clustertest_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"agentyard.dev/deploy/cluster"
	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/kube"
	"agentyard.dev/services/sessions/kube/clustertest"
)

// authority makes an authority that no image knows, and a certificate of it for the address at which pods reach the test.
func authority(t *testing.T) (ca []byte, cert tls.Certificate) {
	t.Helper()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	rootKey, leafKey := key(), key()
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "yard test authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "bus"}, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		IPAddresses: []net.IP{net.ParseIP(cluster.Gateway)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, &rootKey.PublicKey, rootKey)
	if err != nil {
		t.Fatal(err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, &leafKey.PublicKey, rootKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER}), tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: leafKey}
}

// front is the bus at target, behind TLS as the NATS protocol has it: the greeting in the clear says that TLS follows.
func front(t *testing.T, target string, cert tls.Certificate) (url string) {
	t.Helper()
	listener, err := net.Listen("tcp", cluster.Gateway+":0")
	if err != nil {
		t.Fatal(err)
	}
	var parts sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); _ = listener.Close(); parts.Wait() })
	parts.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			parts.Go(func() { pass(ctx, conn, target, cert) })
		}
	})
	return "tls://" + listener.Addr().String()
}

func pass(ctx context.Context, client net.Conn, target string, cert tls.Certificate) {
	bus, err := net.Dial("tcp", target)
	if err != nil {
		_ = client.Close()
		return
	}
	end := context.AfterFunc(ctx, func() { _ = client.Close(); _ = bus.Close() })
	defer end()
	defer client.Close()
	defer bus.Close()
	reader := bufio.NewReader(bus)
	line, err := reader.ReadBytes('\n')
	if err != nil {
		return
	}
	info := map[string]any{}
	if err := json.Unmarshal(bytes.TrimPrefix(line, []byte("INFO ")), &info); err != nil {
		return
	}
	info["tls_required"] = true
	text, _ := json.Marshal(info)
	if _, err := client.Write([]byte("INFO " + string(text) + "\r\n")); err != nil {
		return
	}
	secure := tls.Server(client, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	if err := secure.HandshakeContext(ctx); err != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(bus, secure)
		_ = bus.Close()
	}()
	_, _ = io.Copy(secure, reader)
	_ = client.Close()
	<-done
}

// TestPrivateAuthority: a runner reaches a bus whose certificate is of an authority of the yard's own, if it was given it, and only then.
func TestPrivateAuthority(t *testing.T) {
	t.Parallel()
	ca, cert := authority(t)
	secured := func(configMap string) *yard {
		var namespace string
		y := newYard(t, func(c *sessions.Config, k *kube.Config) {
			c.StartTimeout, k.CAConfigMap, namespace = 15*time.Second, configMap, k.Namespace
			if configMap != "" {
				c.StartTimeout = patience
			}
		}, func(d *sessions.Deps) { d.BusURL = front(t, strings.TrimPrefix(d.BusURL, "nats://"), cert) })
		if configMap != "" {
			_, err := clustertest.Client(t).CoreV1().ConfigMaps(namespace).Create(t.Context(), &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Name: configMap}, Data: map[string]string{"ca.crt": string(ca)},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
		}
		return y
	}
	t.Run("with its certificate", func(t *testing.T) {
		y := secured("yard-ca")
		s := y.create("")
		y.reaches(s.ID, api.StateRunning)
		if got := y.ask(s.ID, "run busybox env"); strings.Contains(got, "SSL_CERT") {
			t.Errorf("the agent has the runner's environment: %q", got)
		}
		y.end(s.ID)
	})
	t.Run("without", func(t *testing.T) {
		y := secured("")
		s := y.create("")
		clustertest.Eventually(t, "it failed", func() bool { s = y.get(s.ID); return s.State.Final() })
		if s.State != api.StateFailed {
			t.Errorf("a runner believed a bus that nobody vouched for: %s", s.State)
		}
	})
}
