package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// cluster is the Kubernetes API, as far as services and what is behind them go.
type cluster struct {
	base   string
	token  string
	client *http.Client
}

// inCluster returns the cluster that this pod runs in.
func inCluster() (*cluster, error) {
	const dir = "/var/run/secrets/kubernetes.io/serviceaccount"
	token, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("the service account's ca.crt holds no certificate")
	}
	return &cluster{
		base:  "https://" + net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")),
		token: strings.TrimSpace(string(token)),
		client: &http.Client{Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, MaxIdleConnsPerHost: maxQuestions,
		}},
	}, nil
}

// service is of a Service what matters here, slices of its EndpointSlices.
type service struct {
	Spec struct {
		ClusterIP string `json:"clusterIP"`
	} `json:"spec"`
}

type slices struct {
	Items []struct {
		Endpoints []struct {
			Addresses  []string `json:"addresses"`
			Hostname   string   `json:"hostname"`
			Conditions struct {
				Ready *bool `json:"ready"`
			} `json:"conditions"`
		} `json:"endpoints"`
	} `json:"items"`
}

// lookup returns the addresses of a name: of a service, of what is behind a headless one, or of one pod behind it by its host name.
func (c *cluster) lookup(ctx context.Context, name string) (addresses [][4]byte, known bool, err error) {
	rest, ok := strings.CutSuffix(strings.ToLower(name), ".svc.cluster.local.")
	if !ok {
		return nil, false, nil
	}
	parts := strings.Split(rest, ".")
	host := ""
	switch len(parts) {
	case 2:
	case 3:
		host, parts = parts[0], parts[1:]
	default:
		return nil, false, nil
	}
	var s service
	known, err = c.get(ctx, "/api/v1/namespaces/"+url.PathEscape(parts[1])+"/services/"+url.PathEscape(parts[0]), &s)
	if err != nil || !known {
		return nil, false, err
	}
	if s.Spec.ClusterIP != "None" {
		return four(s.Spec.ClusterIP), host == "", nil
	}
	var behind slices
	if _, err := c.get(ctx, "/apis/discovery.k8s.io/v1/namespaces/"+url.PathEscape(parts[1])+
		"/endpointslices?labelSelector="+url.QueryEscape("kubernetes.io/service-name="+parts[0]), &behind); err != nil {
		return nil, false, err
	}
	for _, slice := range behind.Items {
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready || host != "" && e.Hostname != host {
				continue
			}
			for _, a := range e.Addresses {
				addresses = append(addresses, four(a)...)
			}
		}
	}
	return addresses, host == "" || len(addresses) > 0, nil
}

// get reads an object and reports whether there is one.
func (c *cluster) get(ctx context.Context, path string, into any) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	resp, err := c.client.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return true, json.NewDecoder(resp.Body).Decode(into)
	case http.StatusNotFound:
		return false, nil
	}
	return false, fmt.Errorf("the API server answers %s", resp.Status)
}

func four(address string) [][4]byte {
	ip := net.ParseIP(address).To4()
	if ip == nil {
		return nil
	}
	return [][4]byte{[4]byte(ip)}
}
