#!/bin/sh
# Is the chart in order? Its generated files, `helm lint --strict`, and that its values fit their schema. Helm is that of the
# test cluster: root's machine builds it where it is missing; elsewhere, and where that fails, this fails and says why.
set -eu
cd "$(dirname "$0")/.."

python scripts/chart_files.py --check

helm=$(tests/kind/build where)/helm
if [ ! -x "$helm" ]; then
    [ "$(id -u)" = 0 ] || { echo "error: no helm in $helm: run tests/kind/build tools" >&2; exit 1; }
    tests/kind/build tools > /dev/null || { echo "error: no helm: tests/kind/build tools failed (see above)" >&2; exit 1; }
fi

# Values that nobody would keep as a file of the chart, each of which renders something that the others do not.
for values in tests/apiserver/golden/*.values.yaml; do
    "$helm" lint --strict --quiet charts/dsort-operator --namespace dsort --values "$values"
done
