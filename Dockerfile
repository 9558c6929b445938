# The image of the operator and of the workers: `dsort` and what it needs, on a Python. scripts/image.sh builds it.
#
# BASE: an image with Python 3.11 or later as python3, and venv; for all stages, so that what is compiled fits.
# Secrets, both optional: `pip`, a pip.conf for the build alone; `ca`, authorities that it may name as /run/secrets/ca.
ARG BASE=docker.io/library/python:3.13-slim

# hadolint ignore=DL3006
FROM ${BASE} AS dependencies
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
WORKDIR /build
COPY requirements/operator.txt requirements/dev.txt ./
# Two environments, and pip in the first only. What builds the wheel is pinned as for developers: hatchling, and what is "via
# hatchling". Bytecode is made once, here: the root is read-only at run time. It looks at no source, which cannot change.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    python3 -m venv tools && python3 -m venv --without-pip /opt/dsort && \
    awk '/^[a-z]/ { if (on) printf "%s", block; block = ""; on = /^hatchling==/ } / hatchling$/ { on = 1 } { block = block $0 "\n" } END { if (on) printf "%s", block }' dev.txt > hatchling.txt && \
    tools/bin/pip install --quiet --no-compile --require-hashes --requirement hatchling.txt && \
    tools/bin/pip --python /opt/dsort/bin/python3 install --quiet --no-compile --require-hashes --only-binary :all: --requirement operator.txt && \
    find /opt/dsort -type d -name tests -prune -exec rm -rf {} + && \
    find /opt/dsort -name '*.pyi' -delete && \
    /opt/dsort/bin/python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/dsort/lib

FROM dependencies AS build
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY api api
COPY worker worker
COPY operator operator
COPY cli cli
COPY crds crds
RUN tools/bin/pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir wheels . && \
    tools/bin/pip --python /opt/dsort/bin/python3 install --quiet --no-compile --no-deps --no-index --no-warn-script-location --root /own wheels/*.whl && \
    python3 -m compileall -q -s /own --invalidation-mode unchecked-hash /own/opt/dsort/lib

# hadolint ignore=DL3006
FROM ${BASE}
# Of the standard library, which slim images bring without bytecode; without a folder only what is at its top would be
# compiled. No shell: there may be none.
RUN ["python3", "-c", "import compileall, re, sysconfig; compileall.compile_dir(sysconfig.get_path('stdlib'), quiet=1, rx=re.compile('/(test|tests|lib2to3|idlelib|dist-packages|site-packages)/'))"]
COPY --from=dependencies /opt/dsort /opt/dsort
# Nobody is in no user database: who asks for a name gets this one.
ENV PATH=/opt/dsort/bin:$PATH USER=dsort PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /
USER 65532:65532
ENTRYPOINT ["dsort"]
# What changes with a release comes last: a node that has another version pulls little.
COPY --from=build /own/opt/dsort /opt/dsort
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="dsort-operator" \
      org.opencontainers.image.description="Shuffle, sort and repack WebDataset tar shards: the operator and its workers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
