package main

import (
	"errors"
	"fmt"
)

// flood connects a thousand times a second for as long as one measurement takes, and tells
// what was seen of it. It has a table of its own, as it is about counts.
func (b *bench) flood() error {
	far, sources, err := b.prepareDirect()
	if err != nil {
		return err
	}
	defer far.Close()
	fmt.Println("| connections | made | /s | seen | recorded | counted for the account | lost | dropped | uid unknown | process unknown | of them not looked for | osmd watch, µs each | osmd, µs each |")
	fmt.Println("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	for _, source := range sources {
		for _, way := range append(knockings(), knocking{"a process each, 10 ms", true, 10}) {
			if err := b.floodOnce(source, way); err != nil {
				return fmt.Errorf("source %q: %w", source, err)
			}
		}
	}
	return nil
}

func (b *bench) floodOnce(source string, way knocking) error {
	w, err := b.watchBy(source)
	if err != nil {
		return err
	}
	line, err := b.floodLine(w, way)
	if err = errors.Join(err, w.stop()); err == nil {
		fmt.Println(line)
	}
	return err
}

func (b *bench) floodLine(w *watched, way knocking) (string, error) {
	k, err := b.knock(w, way)
	if err != nil {
		return "", err
	}
	counted, err := w.counted("shop")
	if err != nil {
		return "", err
	}
	n := k.counts
	return fmt.Sprintf("| %s, %s | %d | %.0f | %d | %d | %d | %d | %d | %d | %d | %d | %.0f | %.0f |",
		w.source, way.name, k.n, k.rate, n["seen"], n["records"], counted, n["lost"], n["dropped"], n["uid_unknown"],
		n["process_unknown"], n["process_skipped"], k.perWatched(), k.perCounted()), nil
}

// counted is how many connections the daemon has counted for an account.
func (w *watched) counted(account string) (int64, error) {
	var list struct {
		Items []struct {
			Trigger string `json:"trigger"`
			Used    int64  `json:"used"`
		} `json:"items"`
	}
	err := w.daemon.JSON(&list, "usage", account)
	for _, u := range list.Items {
		if u.Trigger == "direct-hour" {
			return u.Used, err
		}
	}
	return 0, err
}
