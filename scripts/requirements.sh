#!/bin/sh
# Pin everything that the extras of pyproject.toml need, with hashes and without addresses.
# `make requirements` keeps the pins that still fit; `UPGRADE=1 make requirements` takes the newest of everything.
set -eu
cd "$(dirname "$0")/.."
for extra in base operator dev demo bench; do
    case $extra in base) option= ;; *) option="--extra $extra" ;; esac
    # shellcheck disable=SC2086  # two words on purpose
    "${UV:-uv}" pip compile pyproject.toml $option --universal --python-version 3.11 --generate-hashes --quiet \
        --no-emit-index-url --no-emit-find-links --custom-compile-command "make requirements" \
        ${UPGRADE:+--upgrade} --output-file "requirements/$extra.txt"
done
