package store

import (
	"context"
	"testing"
	"time"
)

func TestAWriteThatWasBrokenOffHarmsNoOther(t *testing.T) {
	f := start(t, "")
	for i := range 3000 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i%300)*time.Microsecond)
		_ = f.AddEntry(ctx, "test", "broken off")
		if err := f.AddEntry(context.Background(), "test", "whole"); err != nil {
			t.Fatalf("write %d after one that was broken off: %v", i, err)
		}
		cancel()
	}
}
