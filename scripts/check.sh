#!/bin/sh
# What `make check` checks. Every step runs, so that one look shows all there is to mend.
set -u
failed=

step() {
    name=$1
    shift
    echo "--- $name"
    "$@" || failed="$failed '$name'"
}

step "ruff format" ruff format --check --quiet .
step "ruff check" ruff check --quiet .
step "mypy" mypy --no-error-summary
step "import contracts" lint-imports --no-cache --no-logo
step "generated files" python -m dsort_api.crd --check crds
step "chart" sh scripts/check_chart.sh
# shellcheck disable=SC2046  # words on purpose
step "shellcheck" shellcheck -x -P SCRIPTDIR $(grep -lE '^#!/(bin/|usr/bin/env )(ba)?sh' scripts/*.sh .ci/run tests/kind/* tests/kind/node/* 2> /dev/null)
step "hadolint" hadolint Dockerfile
step "requirements" python scripts/check_requirements.py

[ -z "$failed" ] || { echo "error: make check: not clean:$failed" >&2; exit 1; }
echo "make check: clean"
