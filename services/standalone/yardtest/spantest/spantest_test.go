package spantest

import "testing"

func TestRead(t *testing.T) {
	all, err := read([]byte("\x0a\x23\x0a\x15\x0a\x13\x0a\x0cservice.name\x12\x03\x0a\x01a\x12\x0a\x12\x08\x2a\x01b\x30\x02\x12\x01\x07"))
	if err != nil || len(all) != 1 || all[0].Service != "a" || all[0].Name != "b" || all[0].ID != "07" || all[0].Kind != Server {
		t.Errorf("%+v, %v", all, err)
	}
}
