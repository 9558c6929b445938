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
step "requirements" python scripts/check_requirements.py

[ -z "$failed" ] || { echo "error: make check: not clean:$failed" >&2; exit 1; }
echo "make check: clean"
