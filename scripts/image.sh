#!/usr/bin/env bash
# Build the image with docker, podman or buildah, whatever is there; print its name.
#
#   scripts/image.sh [NAME]    NAME: of the image, with its tag; default: localhost/dsort-operator:KEY, a key of what is in it
#
# BASE=IMAGE names the image that it is built on. By default it is the Dockerfile's, or, where that cannot be pulled and we are
# root with podman, a Debian with Python that `tests/kind/build base` makes. What pip is told by PIP_INDEX_URL, PIP_EXTRA_INDEX_URL
# and PIP_CERT holds in the build, too, and leaves no trace in the image.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
. tests/kind/lib.sh

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What is in the image, by content; a build of the same is the same image.
key=$(find Dockerfile .dockerignore requirements/operator.txt requirements/dev.txt pyproject.toml README.md LICENSE CHANGELOG.md \
  api worker operator cli crds -type f -not -name '*.pyc' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | key_of)
name=${1:-localhost/dsort-operator:$key}
default=$(sed -n 's/^ARG BASE=//p' Dockerfile)
base=${BASE:-$default}

engine=
for candidate in docker podman buildah; do
  if [ $candidate = docker ]; then
    timeout 20 docker info > /dev/null 2>&1 || continue
  else
    command -v $candidate > /dev/null || continue
  fi
  engine=$candidate
  break
done
# Root without a Docker: our own Podman, whose images the test cluster takes.
if [ "${engine:-podman}" != docker ] && [ "$(id -u)" = 0 ]; then
  own_podman
  engine=podman
fi
[ -n "$engine" ] || fail "no docker, podman or buildah"

there() { case $engine in buildah) buildah inspect --type image "$1" ;; *) $engine image inspect "$1" ;; esac > /dev/null 2>&1; }
if [ -z "${1:-}" ] && [ -z "${BASE:-}" ] && there "$name"; then # nothing has changed
  echo "$name"
  exit
fi
if ! there "$base" && ! timeout 300 "$engine" pull -q "$base" > /dev/null 2>&1; then
  if [ -n "${BASE:-}" ] || [ "$engine" != podman ] || [ "$(id -u)" != 0 ]; then
    fail "$base cannot be pulled; name another with BASE=IMAGE"
  fi
  say "$base cannot be pulled: building on a debootstrapped Debian"
  base=$(tests/kind/build base)
fi

{
  echo "[global]"
  [ -z "${PIP_INDEX_URL:-}" ] || echo "index-url = $PIP_INDEX_URL"
  [ -z "${PIP_EXTRA_INDEX_URL:-}" ] || echo "extra-index-url = $PIP_EXTRA_INDEX_URL"
  [ ! -r "${PIP_CERT:-}" ] || echo "cert = /run/secrets/ca"
} > "$work/pip.conf"
secrets=(--secret "id=pip,src=$work/pip.conf")
[ ! -r "${PIP_CERT:-}" ] || secrets+=(--secret "id=ca,src=$PIP_CERT")
arguments=(--build-arg BASE="$base" --build-arg VERSION="$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)"
  --build-arg REVISION="$(git rev-parse HEAD 2> /dev/null || echo unknown)" -t "$name" -f Dockerfile)
say "building $name with $engine on $base"
case $engine in
  # Without attestations: they make an index of the image, of which kind can load no part.
  docker) DOCKER_BUILDKIT=1 docker build -q --provenance=false "${secrets[@]}" "${arguments[@]}" . ;;
  # A chroot asks nothing of the machine; the format is the one that every engine and Kubernetes knows.
  podman) podman build -q --isolation chroot --layers --format oci "${secrets[@]}" "${arguments[@]}" . ;;
  buildah) buildah build -q --isolation chroot --layers --format oci "${secrets[@]}" "${arguments[@]}" . ;;
esac > "$work/id"
echo "$name"
