#!/usr/bin/python3 -I
"""ban.py WORD...: has another blocker keep out the address that a report is about.

Reads the report as JSON on standard input. In the words of the blocker's command, {ip}
stands for the address and {until} for the end of the block in seconds since 1970.

  [[script]]
  name    = "crowdsec"
  command = ["/etc/osm/scripts/ban.py", "/usr/bin/cscli", "decisions", "add", "--ip", "{ip}",
             "--duration", "4h", "--type", "ban", "--reason", "osm"]
  user    = "root"

  # fail2ban:    "/usr/bin/fail2ban-client", "set", "osm", "banip", "{ip}"
  # Imunify360:  "/usr/bin/imunify360-agent", "ip-list", "local", "add", "--purpose", "drop",
  #              "{ip}", "--comment", "osm", "--expiration", "{until}"
  # firewalld:   "/usr/bin/firewall-cmd", "--ipset=osm", "--add-entry={ip}"

Nothing here undoes it, and osm's own lists of addresses that are never blocked are not
asked: give the blocker lists of its own. It runs as root, so it takes JSON, which is only
read: a report in Perl is a program.
"""
import ipaddress
import json
import subprocess
import sys
import time


def address(report):
    """The address that the event or certain evidence names, or None."""
    event = report["event"]
    if event["mode"] != "enforce" or event["claimed"]:
        return None  # nothing follows from what was only watched, or may be forged
    if event["watch"] == "client-ip":
        named = {event["key"].split()[-1]}
    else:
        named = {e["client_ip"] for e in report["evidence"] if e["confidence"] == "high" and e["client_ip"]}
    if len(named) != 1:
        return None
    network = ipaddress.ip_network(named.pop())
    if network.num_addresses != 1 or not network.is_global:
        return None
    return network.network_address


def main(words):
    report = json.load(sys.stdin)
    if not report["schema"].startswith("osm-report/1"):
        sys.exit("ban.py: this is no report that I know: " + repr(report["schema"])[:80])
    ip = address(report)
    if ip is None:
        print("nobody to block")
        return 0
    until = str(int(time.time()) + 4 * 3600)
    command = [w.replace("{ip}", str(ip)).replace("{until}", until) for w in words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=20)
    print(f"{command[0]} for {ip}: exit status {done.returncode}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
