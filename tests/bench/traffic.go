package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"osm/tests/lab"
)

const (
	trafficPort = 9   // discard: nobody watches it
	sendWindow  = 500 // sends that are timed together
)

// traffic goes over the cable to another host's port that nobody watches.
type traffic struct {
	udp net.PacketConn // takes what it has room for, and nobody reads it
	tcp net.Listener
}

func newTraffic(far *lab.Far) (*traffic, error) {
	t := &traffic{}
	err := far.Do(func() (err error) {
		at := fmt.Sprint(lab.FarIPv4, ":", trafficPort)
		if t.udp, err = net.ListenPacket("udp4", at); err != nil {
			return err
		}
		t.tcp, err = net.Listen("tcp4", at)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen at the other host: %w", err), t.close())
	}
	return t, nil
}

func (t *traffic) close() error {
	var errs []error
	if t.udp != nil {
		errs = append(errs, t.udp.Close())
	}
	if t.tcp != nil {
		errs = append(errs, t.tcp.Close())
	}
	return errors.Join(errs...)
}

// measure sends for so long, one half by UDP and one by TCP, and notes what it was like and
// how busy the watch was meanwhile.
func (t *traffic) measure(w *watched, seconds float64, c *watchCosts) error {
	before, _, err := w.used()
	if err != nil {
		return err
	}
	began := time.Now()
	half := time.Duration(seconds / 2 * float64(time.Second))
	send, err := t.send(half)
	if err != nil {
		return fmt.Errorf("send by UDP: %w", err)
	}
	rate, err := t.stream(half)
	if err != nil {
		return fmt.Errorf("send by TCP: %w", err)
	}
	took := time.Since(began).Seconds()
	after, _, err := w.used()
	c.send, c.rate, c.share = append(c.send, send), append(c.rate, rate), append(c.share, (after-before)*100/took)
	return err
}

// send returns how long it takes to send 64 bytes by UDP, in microseconds: the lower quartile
// of many short windows, as now and then the processor is taken away in one.
func (t *traffic) send(limit time.Duration) (float64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: trafficPort, Addr: netip.MustParseAddr(lab.FarIPv4).As4()}); err != nil {
		return 0, err
	}
	var windows sample
	var packet [64]byte
	for began := time.Now(); time.Since(began) < limit; {
		start := time.Now()
		for range sendWindow {
			if _, err := unix.Write(fd, packet[:]); err != nil {
				return 0, err
			}
		}
		windows = append(windows, time.Since(start).Seconds()*1e6/sendWindow)
	}
	lower, _, _ := windows.quartiles()
	return lower, nil
}

// stream returns how much a TCP connection carries, in Gbit/s.
func (t *traffic) stream(limit time.Duration) (float64, error) {
	took := make(chan error, 1)
	go func() { took <- t.take() }()
	c, err := net.Dial("tcp4", t.tcp.Addr().String())
	if err != nil {
		return 0, err
	}
	sent, block := 0, make([]byte, 256<<10)
	began := time.Now()
	for err == nil && time.Since(began) < limit {
		var n int
		n, err = c.Write(block)
		sent += n
	}
	rate := float64(sent) * 8 / 1e9 / time.Since(began).Seconds()
	return rate, errors.Join(err, c.Close(), <-took)
}

// take reads one connection to its end.
func (t *traffic) take() error {
	c, err := t.tcp.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	for block := make([]byte, 256<<10); err == nil; {
		_, err = c.Read(block)
	}
	return nil
}

func trafficFigures(sources []string, costs map[string]*watchCosts) []figure {
	none := costs[""]
	figures := []figure{
		{"one UDP send of 64 bytes, not to a mail port, no watch", "-", none.send, " µs", "", 0, false},
		{"one TCP stream, not to a mail port, no watch", "-", none.rate, " Gbit/s", "", 0, false},
	}
	for _, source := range sources[1:] {
		c := costs[source]
		figures = append(figures, []figure{
			{"time of a UDP send, " + source, "no watch", ratios(c.send, none.send), "", "", 0, false},
			{"rate of a TCP stream, " + source, "no watch", ratios(c.rate, none.rate), "", "", 0, false},
			{"osmd watch meanwhile, " + source, "one processor", c.share, " %", "", 0, false},
		}...)
	}
	return figures
}
