#!/bin/sh
# venv.sh FOLDER EXTRA: a virtual environment in FOLDER with requirements/EXTRA.txt and this tree (editable).
# Made anew when the pins or the interpreter change, touched by nothing else. Says in one line what is missing.
set -eu
folder=$1
extra=$2
root=$(cd "$(dirname "$0")/.." && pwd)

fail() {
    echo "error: $*" >&2
    exit 1
}

fits() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

python=
for candidate in ${PYTHON:-python3.11 python3 python3.12 python3.13}; do
    if fits "$candidate"; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "no Python 3.11 or later found: install python3.11, or name one with PYTHON=..."

# The interpreter's own idea of itself, so that a moved or upgraded one makes a new environment.
identity=$("$python" -c 'import sys; print(sys.version, sys.base_prefix)')
pins=$(printf '%s' "$identity" | cat - "$root/requirements/$extra.txt" | sha256sum | cut -d ' ' -f 1)
tree=$(cat "$root/pyproject.toml" "$0" | sha256sum | cut -d ' ' -f 1)

mkdir -p "$(dirname "$folder")"
exec 9>"$folder.lock"
flock 9

if [ "$(cat "$folder/pins" 2>/dev/null)" != "$pins" ]; then
    rm -rf "$folder"
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        # Debian keeps these two in a package of their own.
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        sh "$root/scripts/apt.sh" "python$version-venv" ||
            fail "$python cannot make virtual environments: install python$version-venv (apt-get install python$version-venv)"
    fi
    echo "making the $extra environment in $folder" >&2
    "$python" -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes \
        --requirement "$root/requirements/$extra.txt" || fail "could not install requirements/$extra.txt (see above)"
    printf '%s\n' "$pins" >"$folder/pins"
fi
if [ "$(cat "$folder/tree" 2>/dev/null)" != "$tree" ]; then
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --no-build-isolation \
        --editable "$root" || fail "could not install this tree (see above)"
    printf '%s\n' "$tree" >"$folder/tree"
fi
