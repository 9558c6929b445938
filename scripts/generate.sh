#!/bin/sh
# generate.sh [--check]: write what is generated from the models, or fail when the tree's copy is not what they say.
set -eu
cd "$(dirname "$0")/.."
crd=crds/dsort.dev_dsortjobs.yaml
fresh=$(mktemp)
trap 'rm -f "$fresh"' EXIT
python -m dsort_api.crd >"$fresh"
if [ "${1-}" = --check ]; then
    diff -u "$crd" "$fresh" || { echo "error: $crd is not what the models say: make generate" >&2; exit 1; }
else
    mkdir -p crds
    cp "$fresh" "$crd"
    chmod 644 "$crd"
fi
