package origin

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// onePool has one pool, shop at /run/shop, with that page.
func onePool(page string) func(context.Context, uint32, uint32) ([]byte, error) {
	return func(_ context.Context, name, address uint32) ([]byte, error) {
		if name != PoolNumber("shop") || address != PoolNumber("/run/shop") {
			return nil, errors.New("no such pool")
		}
		return []byte(page), nil
	}
}

func TestInspectorHasAPoolAsked(t *testing.T) {
	i, _ := inspect(t, InspectOptions{Pool: onePool("its page")})
	if page, err := i.Pool(t.Context(), "shop", "/run/shop"); err != nil || string(page) != "its page" {
		t.Errorf("got %q, %v", page, err)
	}
	for name, address := range map[string]string{"shop": "/run/other", "other": "/run/shop", "": ""} {
		if page, err := i.Pool(t.Context(), name, address); err == nil {
			t.Errorf("pool %q at %q: got %q, want a refusal", name, address, page)
		}
	}
	none, _ := inspect(t, InspectOptions{})
	if page, err := none.Pool(t.Context(), "shop", "/run/shop"); err == nil {
		t.Errorf("of an inspector without pools: got %q", page)
	}
	long, _ := inspect(t, InspectOptions{Pool: onePool(strings.Repeat("x", maxPage+1))})
	if page, err := long.Pool(t.Context(), "shop", "/run/shop"); err == nil {
		t.Errorf("a page of %d bytes was taken", len(page))
	}
}

func TestPoolsThatDoNotAnswerDoNotHinderMessages(t *testing.T) {
	i, _ := inspect(t, InspectOptions{Pool: func(ctx context.Context, _, _ uint32) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	undeterred(i)
	failed := make(chan error, 2*inspectorConns)
	for range cap(failed) {
		go func() {
			_, err := i.Pool(t.Context(), "shop", "/run/shop")
			failed <- err
		}()
	}
	self := int32(os.Getpid())
	asked, late := 0, 0 // a busy machine may keep us from the processor for longer than a question may take
	for n := 0; n < cap(failed); {
		select {
		case err := <-failed:
			if n++; err == nil {
				t.Error("a page of a pool that does not answer")
			}
		default:
			asked++
			if _, _, err := i.Chain(t.Context(), self); err != nil {
				late++
			}
		}
	}
	if late*10 > asked {
		t.Errorf("%d of %d questions about a process got no answer meanwhile", late, asked)
	}
	if err := i.Err(); err != nil && late < inspectorBreaker {
		t.Errorf("Err = %v: pools must not count", err)
	}
}

func TestAnInspectorThatIsAwayIsNoAlarmToThePools(t *testing.T) {
	i := client(t, filepath.Join(publicDir(t), "none"))
	for range inspectorBreaker + 1 {
		if _, err := i.Pool(t.Context(), "shop", "/run/shop"); err == nil || errors.Is(err, ErrInspectorAway) {
			t.Errorf("got %v, want its own error", err)
		}
	}
	if err := i.Err(); err != nil {
		t.Errorf("Err = %v: pools must not count", err)
	}
}

func TestASilentInspectorCostsAPoolNoMoreThanItsTime(t *testing.T) {
	socket := filepath.Join(publicDir(t), "inspect.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	before := bootNow()
	if _, err := client(t, socket).Pool(t.Context(), "shop", "/run/shop"); err == nil {
		t.Error("a page of an inspector that says nothing")
	}
	if took := bootNow() - before; took < poolTime || took > poolTime+5*time.Second { // without its limit it hangs for ever
		t.Errorf("took %v, want about %v", took, poolTime+inspectorTime)
	}
}

// Whoever took over the daemon asks as he likes: php-fpm does not notice much.
func TestPoolsAreAskedTwentyTimesASecond(t *testing.T) {
	now, asked := time.Hour, 0
	p := newPoolAsks(func(context.Context, uint32, uint32) ([]byte, error) { asked++; return nil, nil })
	p.now = func() time.Duration { return now }
	for range 10_000 { // ten seconds
		_, _ = p.page(t.Context(), question{})
		now += time.Millisecond
	}
	if most := 10*20 + poolBurst; asked < 200 || asked > most {
		t.Errorf("a pool was asked %d times in ten seconds, want 200 to %d", asked, most)
	}
	now += time.Hour
	asked = 0
	for range 1000 {
		_, _ = p.page(t.Context(), question{})
	}
	if asked != poolBurst {
		t.Errorf("%d at once after an hour, want %d", asked, poolBurst)
	}
}

func TestFewPoolsAreAskedAtOnceAndNotForLong(t *testing.T) {
	asking, end := make(chan time.Time), make(chan struct{})
	p := newPoolAsks(func(ctx context.Context, _, _ uint32) ([]byte, error) {
		limit, _ := ctx.Deadline()
		asking <- limit
		<-end
		return nil, nil
	})
	done := make(chan error)
	for range poolsAtOnce {
		go func() {
			_, err := p.page(t.Context(), question{})
			done <- err
		}()
		if left := time.Until(<-asking); left > poolTime {
			t.Errorf("a pool has %v to answer, want %v", left, poolTime)
		}
	}
	if _, err := p.page(t.Context(), question{}); err == nil {
		t.Errorf("more than %d pools are asked at once", poolsAtOnce)
	}
	close(end)
	for range poolsAtOnce {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
