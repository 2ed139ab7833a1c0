// Command testcollector stands in for an OpenTelemetry collector in tests of pods: it does with the configuration that it is given what a test sees from
// outside. It reads the file of targets, scrapes the first target every half second and posts what came, after the resource's attributes, to the exporter's endpoint.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"
)

var (
	targets   = regexp.MustCompile(`file_sd_configs:\s+- \{files: \["([^"]+)"\]`)
	endpoint  = regexp.MustCompile(`otlphttp: \{endpoint: "([^"]+)"\}`)
	attribute = regexp.MustCompile(`\{key: ([a-z0-9.]+), value: "?([^",]+)"?,`)
	copied    = regexp.MustCompile(`\{key: ([a-z0-9.]+), from_attribute: service.instance.id,`)
	variable  = regexp.MustCompile(`\$\{env:([A-Z_]+)\}`)
)

func main() {
	file := flag.String("config", "", "configuration `file`")
	flag.Parse()
	if err := run(*file); err != nil {
		fmt.Fprintln(os.Stderr, "testcollector:", err)
		os.Exit(1)
	}
}

func run(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	config := variable.ReplaceAllStringFunc(string(data), func(v string) string { return os.Getenv(variable.FindStringSubmatch(v)[1]) })
	from, to := targets.FindStringSubmatch(config), endpoint.FindStringSubmatch(config)
	if from == nil || to == nil {
		return fmt.Errorf("no targets or no endpoint in %s", file)
	}
	var attributes strings.Builder
	for _, a := range attribute.FindAllStringSubmatch(config, -1) {
		fmt.Fprintf(&attributes, "%s=%s\n", a[1], a[2])
	}
	client := &http.Client{Timeout: 5 * time.Second}
	for range time.Tick(500 * time.Millisecond) {
		target, instance, err := first(from[1])
		if err == nil && target == "" {
			continue // nobody's yet
		}
		of := attributes.String()
		for _, a := range append(copied.FindAllStringSubmatch(config, -1), []string{"", "service.instance.id"}) {
			of += a[1] + "=" + instance + "\n"
		}
		if err == nil {
			err = forward(client, "http://"+target+"/metrics", to[1]+"/v1/metrics", of)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "testcollector:", err)
		}
	}
	return nil
}

// first returns the first target of a file and its label instance, empty for none.
func first(file string) (target, instance string, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", "", err
	}
	var groups []struct {
		Targets []string
		Labels  map[string]string
	}
	if err := json.Unmarshal(data, &groups); err != nil || len(groups) == 0 {
		return "", "", err
	}
	return groups[0].Targets[0], groups[0].Labels["instance"], nil
}

// forward scrapes once.
func forward(client *http.Client, from, to, attributes string) error {
	res, err := client.Get(from)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("scrape: %s, %w", res.Status, err)
	}
	sent, err := client.Post(to, "text/plain", io.MultiReader(strings.NewReader(attributes), bytes.NewReader(body)))
	if err != nil {
		return err
	}
	return sent.Body.Close()
}
