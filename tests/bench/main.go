// Command bench measures the figures that this product promises, beside their anchors in
// the same run, in paired and interleaved rounds. It prints medians, quartiles and
// whether each is met; ratios are of the same round. Everything runs in the lab's own
// namespaces; the load is bounded in time.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"osm/tests/lab"
)

type options struct {
	rounds  int
	seconds float64
	only    string
	bin     string // folder of osmd, osmctl, load and echo
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 9, "paired rounds of each figure")
	flag.Float64Var(&o.seconds, "seconds", 2, "length of one measurement")
	flag.StringVar(&o.only, "only", "", "only the groups whose name begins so: socket, accounts, start, exim, direct; or flood")
	flag.StringVar(&o.bin, "bin", "bin", "folder of the built programs")
	flag.Parse()
	if err := lab.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	dir, err := os.MkdirTemp("", "osm-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		return err
	}
	o.bin = bin
	b := &bench{o: o, dir: dir}
	groups := []struct {
		name string
		run  func() ([]figure, error)
	}{
		{"socket", b.socket}, {"accounts", b.accounts}, {"start", b.start}, {"exim", b.exim}, {"direct", b.direct},
	}
	printHost()
	if o.only == "flood" { // for the longer run that it is worth: not among the others
		return b.flood()
	}
	fmt.Println("| figure | anchor | median | quartiles | rounds | required | |")
	fmt.Println("| --- | --- | --- | --- | --- | --- | --- |")
	for _, g := range groups {
		if !strings.HasPrefix(g.name, o.only) {
			continue
		}
		figures, err := g.run()
		if err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		for _, f := range figures {
			fmt.Println(f)
		}
	}
	return nil
}

func printHost() {
	load, _ := os.ReadFile("/proc/loadavg")
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	cpus, _ := exec.Command("nproc").Output()
	fmt.Printf("kernel %s, %s processors, load %s\n\n", strings.TrimSpace(string(kernel)),
		strings.TrimSpace(string(cpus)), strings.TrimSpace(string(load)))
}
