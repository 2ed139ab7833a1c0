// Command testcollector stands in for an OpenTelemetry collector in tests of pods: it does with the configuration that it is given what a test sees from
// outside. It scrapes the first target every half second and posts what came, after the resource's attributes, to the exporter's endpoint.
package main

import (
	"bytes"
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
	target    = regexp.MustCompile(`targets: \["([^"]+)"\]`)
	endpoint  = regexp.MustCompile(`otlphttp: \{endpoint: "([^"]+)"\}`)
	attribute = regexp.MustCompile(`\{key: ([a-z0-9.]+), value: "?([^",]+)"?,`)
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
	from, to := target.FindStringSubmatch(config), endpoint.FindStringSubmatch(config)
	if from == nil || to == nil {
		return fmt.Errorf("no target or no endpoint in %s", file)
	}
	var attributes strings.Builder
	for _, a := range attribute.FindAllStringSubmatch(config, -1) {
		fmt.Fprintf(&attributes, "%s=%s\n", a[1], a[2])
	}
	client := &http.Client{Timeout: 5 * time.Second}
	for range time.Tick(500 * time.Millisecond) {
		if err := forward(client, "http://"+from[1]+"/metrics", to[1]+"/v1/metrics", attributes.String()); err != nil {
			fmt.Fprintln(os.Stderr, "testcollector:", err)
		}
	}
	return nil
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
