package report

import (
	"fmt"
	"time"

	store "osm/sql"
)

// The event of the golden files: a contact form that was broken into.
var (
	began  = time.Date(2026, 11, 3, 9, 41, 7, 250e6, time.UTC)
	sentAt = time.Date(2026, 11, 3, 9, 42, 0, 0, time.UTC)
)

func moment(t time.Time) store.Time { return store.Time{Time: t} }

func sampleFacts() Facts {
	e := store.Event{
		ID: 17, At: moment(began), LastAt: moment(began.Add(40 * time.Second)), Trigger: "directory-hour", Watch: "directory",
		Key: "forum /home/forum/public_html/contact", Account: "forum", Mode: "enforce", Verdict: "freeze", Max: 100, Per: store.Period(time.Hour),
		Count: "messages", Used: 100, Stopped: 12, FreeAt: moment(began.Add(time.Hour)), Open: true,
		Requests: []store.Evidence{
			{At: moment(began), Ref: "k7m2p000", Script: "/home/forum/public_html/contact/send.php", URL: "/contact/send.php?to=all", Method: "POST",
				VirtualHost: "forum.example", ClientIP: "203.0.113.77", PID: 4711, Basis: "php-fpm status, pool forum, process 4711", Confidence: "high"},
			{At: moment(began.Add(3 * time.Second)), Ref: "k7m2p001", Script: "send.php", Basis: "header X-PHP-Originating-Script", Confidence: "low"},
			{At: moment(began.Add(6 * time.Second)), Ref: "k7m2p002", Basis: "the request was over", Confidence: "none"},
		},
		Actions: []store.Action{
			{ID: 3, EventID: 17, At: moment(began.Add(time.Second)), Name: "hold", Target: "directory forum /home/forum/public_html/contact", State: "done",
				Outcome: "hold 2 on directory forum /home/forum/public_html/contact, until 2026-11-03 10:41:08 UTC", Inverse: "osmctl release 2",
				Until: moment(began.Add(time.Hour + time.Second)), Attempts: 1},
			{ID: 4, EventID: 17, At: moment(began.Add(2 * time.Second)), Name: "rename-script", Target: "/home/forum/public_html/contact/send.php", State: "left",
				Outcome: "it is not this account's file"},
		},
	}
	for i := range 12 {
		d := store.Decision{
			Ref: fmt.Sprintf("k7m2p%03d", i), At: moment(began.Add(time.Duration(i) * 3 * time.Second)), MessageID: fmt.Sprintf("1vFq%02d-000abc-2F", i),
			Source: "script", Account: "forum", Basis: "uid 1004 is forum", WorkingDirectory: "/home/forum/public_html/contact",
			Script: "/home/forum/public_html/contact/send.php", EnvelopeSender: "forum@web1.example.net", Subject: fmt.Sprintf("Ihre Rechnung Nr. 88%02d – jetzt zahlen", i),
			SubjectKey: "ihre rechnung nr. # – jetzt zahlen", Recipients: 1, Size: 2048, Verdict: "freeze", Would: "freeze", Reason: "over", Trigger: "directory-hour",
		}
		if i%4 == 3 {
			d.Subject, d.SubjectKey, d.Script = "Contact form: a question", "contact form: a question", ""
		}
		e.Messages = append(e.Messages, d)
	}
	return Facts{
		Event: e, Kind: First, Now: sentAt, Host: "web1.example.net", Version: "0.2.0", Page: "https://web1.example.net:2087/cgi/osm/event/17",
		Also: []store.Event{{
			ID: 18, At: moment(began.Add(5 * time.Second)), LastAt: moment(began.Add(30 * time.Second)), Trigger: "scripts-hour", Watch: "scripts", Key: "forum",
			Account: "forum", Mode: "observe", Verdict: "freeze", Max: 200, Per: store.Period(time.Hour), Count: "messages", Used: 200, Stopped: 4, Open: true,
		}},
	}
}

// connectionFacts are those of a script that connects to other mail servers by itself.
func connectionFacts() Facts {
	f := sampleFacts()
	f.Also, f.Event.Messages, f.Event.Requests, f.Event.Actions = nil, nil, nil, nil
	f.Event.Trigger, f.Event.Watch, f.Event.Key, f.Event.Count = "direct-hour", "direct", "forum", "connections"
	f.Event.Max, f.Event.Used, f.Event.Verdict = 30, 30, "accept"
	uid := int64(1004)
	for i := range 12 {
		c := store.Connection{
			Ref: fmt.Sprintf("m8n3q%03d", i), At: moment(began.Add(time.Duration(i) * 3 * time.Second)), Account: "forum", UID: &uid, Source: "direct", SeenBy: "ebpf",
			Local: fmt.Sprintf("192.0.2.1:%d", 40001+i), Remote: fmt.Sprintf("198.51.100.%d:25", 1+i%3), Outcome: "established", PID: 4800 + int64(i), Executable: "/usr/bin/perl",
			Arguments: []string{"perl", "mailer.pl", "list.txt"}, StartedBy: &store.Process{PID: 700, Executable: "/usr/sbin/crond"},
			WorkingDirectory: "/home/forum/public_html/tmp", Script: "/home/forum/public_html/tmp/mailer.pl", Cgroup: "/lve1004", Basis: "the socket's owner is uid 1004",
			Would: "accept", Reason: "over", Trigger: "direct-hour",
		}
		if i%4 == 3 { // it was gone before it could be looked at
			c.UID, c.PID, c.Executable, c.Arguments, c.StartedBy, c.WorkingDirectory, c.Script, c.Outcome, c.Local = nil, 0, "", nil, nil, "", "", "unknown", ""
			c.Basis = "the socket was closed before it could be looked at"
		}
		f.Event.Connections = append(f.Event.Connections, c)
	}
	return f
}

// digestFacts are the same event an hour later.
func digestFacts() Facts {
	f := sampleFacts()
	f.Kind, f.Since, f.Now, f.StoppedBefore = Digest, sentAt, sentAt.Add(time.Hour), 12
	f.Event.Stopped, f.Event.LastAt = 4711, moment(sentAt.Add(50*time.Minute))
	return f
}
