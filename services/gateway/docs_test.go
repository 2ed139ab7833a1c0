package gateway

import "testing"

// TestDocsPage: the page can be read in a narrow window, and its links lead to something that is shown.
func TestDocsPage(t *testing.T) {
	g := newYard(t).gateway()
	b := openBrowser(t)
	b.do("Emulation.setDeviceMetricsOverride", map[string]any{"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": false})
	b.open(g.URL() + "/docs")
	if got := b.eval(`(document.querySelectorAll("details").forEach(d => d.open = true), document.documentElement.scrollWidth <= innerWidth)`); got != "true" {
		t.Errorf("the page is wider than the window: %s", b.eval(`document.documentElement.scrollWidth`))
	}
	if n := b.eval(`[...document.querySelectorAll("a[href^='#']")].filter(a => !document.getElementById(a.hash.slice(1))).length`); n != "0" {
		t.Errorf("%s links lead nowhere", n)
	}
	b.eval(`document.querySelectorAll("details").forEach(d => d.open = false)`)
	b.eval(`document.querySelector("a[href='#Session']").click()`)
	until(t, "the shape that a link leads to is open", func() bool {
		return b.eval(`document.getElementById("Session").closest("details").open`) == "true"
	})
}
