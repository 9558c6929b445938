#!/bin/sh
# apt.sh PACKAGE...: install Debian packages when we are root on a machine that has apt; fails otherwise, quietly.
set -eu
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || exit 1
export DEBIAN_FRONTEND=noninteractive
quick="-qq -o Acquire::Retries=1 -o Acquire::http::Timeout=30 -o DPkg::Lock::Timeout=120"
echo "installing $* with apt-get" >&2
# shellcheck disable=SC2086  # words on purpose
apt-get $quick install -y --no-install-recommends "$@" >/dev/null 2>&1 </dev/null && exit 0
# A fresh machine has no package lists yet, or lists that are out of date.
# shellcheck disable=SC2086
apt-get $quick update >&2 </dev/null && apt-get $quick install -y --no-install-recommends "$@" >/dev/null </dev/null
