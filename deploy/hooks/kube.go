package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// secret is a Kubernetes Secret.
type secret struct {
	Name    string
	UID     string
	Version string // resourceVersion; empty: it does not exist yet
	Data    map[string][]byte
	Notes   map[string]string // annotations
}

// secretForm is a Secret on the wire.
type secretForm struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   metaForm          `json:"metadata"`
	Type       string            `json:"type,omitempty"`
	Data       map[string][]byte `json:"data,omitempty"`
}

type metaForm struct {
	Name            string            `json:"name"`
	UID             string            `json:"uid,omitempty"`
	ResourceVersion string            `json:"resourceVersion,omitempty"`
	Labels          map[string]string `json:"labels,omitempty"`
	Annotations     map[string]string `json:"annotations,omitempty"`
}

// cluster is the Kubernetes API as far as Secrets of one namespace go.
type cluster struct {
	url    string // of the namespace's secrets
	token  string
	client *http.Client
}

// requestTimeout bounds one request to the Kubernetes API.
const requestTimeout = 10 * time.Second

// inCluster returns the cluster that this pod runs in, with its service account's token.
func inCluster() (*cluster, error) {
	const dir = "/var/run/secrets/kubernetes.io/serviceaccount"
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, fmt.Errorf("not in a Kubernetes cluster: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")
	}
	var file [3]string
	for i, name := range []string{"token", "namespace", "ca.crt"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("read the service account: %w", err)
		}
		file[i] = strings.TrimSpace(string(data))
	}
	return newCluster("https://"+net.JoinHostPort(host, port), file[0], file[1], []byte(file[2]))
}

func newCluster(url, token, namespace string, ca []byte) (*cluster, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("the service account's ca.crt holds no certificate")
	}
	return &cluster{
		url: url + "/api/v1/namespaces/" + namespace + "/secrets", token: token,
		client: &http.Client{
			Timeout:   requestTimeout,
			Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}},
		},
	}, nil
}

// get returns a Secret, or nil when there is none.
func (c *cluster) get(ctx context.Context, name string) (*secret, error) {
	s, status, err := c.do(ctx, http.MethodGet, "/"+name, nil)
	if status == http.StatusNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get secret %s: %w", name, err)
	}
	return s, nil
}

// put creates a Secret, or replaces the version that s was made from. When another has created it meanwhile, that one is returned.
func (c *cluster) put(ctx context.Context, s secret) (*secret, error) {
	form := &secretForm{APIVersion: "v1", Kind: "Secret", Type: "Opaque", Data: s.Data, Metadata: metaForm{
		Name: s.Name, ResourceVersion: s.Version, Annotations: s.Notes,
		Labels: map[string]string{"app.kubernetes.io/part-of": "agentyard", "app.kubernetes.io/managed-by": "agentyard-keys"},
	}}
	method, path := http.MethodPost, ""
	if s.Version != "" {
		method, path = http.MethodPut, "/"+s.Name
	}
	made, status, err := c.do(ctx, method, path, form)
	if method == http.MethodPost && status == http.StatusConflict {
		made, err = c.get(ctx, s.Name)
		if err == nil && made == nil {
			err = fmt.Errorf("it was there and is gone")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("write secret %s: %w", s.Name, err)
	}
	return made, nil
}

// maxAnswer bounds what is read of an answer; a Secret has at most 1 MiB, which base64 makes more.
const maxAnswer = 4 << 20

func (c *cluster) do(ctx context.Context, method, path string, in *secretForm) (*secret, int, error) {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return nil, 0, err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, body)
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Accept", "application/json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, resp.StatusCode, err
	}
	if resp.StatusCode >= 300 {
		var why struct{ Message string }
		_ = json.Unmarshal(data, &why) // a proxy's answer is no Status; the number says enough then
		return nil, resp.StatusCode, fmt.Errorf("the Kubernetes API answers %s: %s", resp.Status, why.Message)
	}
	var form secretForm
	if err := json.Unmarshal(data, &form); err != nil {
		return nil, resp.StatusCode, fmt.Errorf("read the Kubernetes API's answer: %w", err)
	}
	return &secret{
		Name: form.Metadata.Name, UID: form.Metadata.UID, Version: form.Metadata.ResourceVersion,
		Data: form.Data, Notes: form.Metadata.Annotations,
	}, resp.StatusCode, nil
}
