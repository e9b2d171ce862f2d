#!/usr/bin/env bash
# Installs with apt what the demo and the tests run on ("deps.sh demo": the demo alone).
# Starts no service and replaces no mail server: where another one is installed it says so
# and stops.
set -euo pipefail
packages=(exim4-daemon-heavy exim4-config php-cli php-cgi iproute2 perl-base util-linux systemd
  libcap2-bin logrotate diffutils mandoc)
if [ "${1:-}" != demo ]; then
  packages+=(chromium fonts-inter fonts-dejavu-core swaks openssl perl nftables python3 python3-yaml libxml2-utils
    apache2 apache2-suexec-pristine libapache2-mod-php php-fpm)
  # npm brings axe-core to the tests of the page; it comes with Node where that is no package
  # of Debian's.
  command -v npm >/dev/null || packages+=(npm)
fi
missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f='${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
done
[ ${#missing[@]} = 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
  echo "deps: needs Debian's apt-get to install: ${missing[*]}" >&2
  exit 1
fi
for mta in postfix sendmail-bin courier-mta nullmailer msmtp-mta ssmtp dma opensmtpd; do
  if dpkg-query -W -f='${db:Status-Status}\n' "$mta" 2>/dev/null | grep -qx installed; then
    echo "deps: the mail server package $mta is installed and Exim would replace it; nothing was changed." >&2
    echo "deps: run this on a machine without it (a container or a virtual machine will do)." >&2
    exit 1
  fi
done

# No service may start while the packages are set up.
made=
if [ ! -e /usr/sbin/policy-rc.d ]; then
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
  chmod 755 /usr/sbin/policy-rc.d
  made=1
fi
trap '[ -z "$made" ] || rm -f /usr/sbin/policy-rc.d' EXIT
echo "deps: installing ${missing[*]}"
log=$(mktemp)
if ! { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -20 "$log" >&2
  echo "deps: apt-get could not install them (full output above, last 20 lines)" >&2
  rm -f "$log"
  exit 1
fi
rm -f "$log"
