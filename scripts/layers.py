"""Run the layers of tests that this machine can carry, and say which ran, which did not, and why.

    python scripts/layers.py [LAYER ...] [-- PYTEST ARGUMENTS]

A pytest argument that is a file or a folder of tests, or a test in one, runs instead of the whole of its layer.
All layers go through one pytest (its children are measured too), which runs two of them side by side when nothing else is
asked of it: much of their time is waiting. pytest's closing lines are held back until the coverage and the layers have been
printed, so that they are what a log ends with. With CI=true a layer that cannot run is a failure.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
CORE_LEAST: Final = 100
WHOLE_LEAST: Final = 90
# From here on a line of pytest's is one of its closing lines: the list of what did not pass, and the last line.
CLOSING: Final = re.compile(r"(=+ )?(short test summary info|(\d+|no) \S.* in [\d.]+s.*?)( =+)?")
SIDE_BY_SIDE: Final = (
    ("--numprocesses=2", "--dist=loadscope", "--no-loadscope-reorder") if (os.cpu_count() or 1) > 1 else ()
)
NOT_ASKED: Final = "not asked for"
COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Layer:
    """One folder of tests, and what it needs of the machine."""

    name: str
    what: str
    missing: Callable[[], str | None] = field(default=lambda: None)
    """Installs what it may; says in words what is still missing, or None."""
    measured: bool = True
    """The coverage gates hold only where every measured layer ran."""

    @property
    def folder(self) -> Path:
        """Where its tests are."""
        return ROOT / "tests" / self.name


def missing_tools(packages: dict[str, str]) -> str | None:
    """Install what is not there of {command: Debian package}, when we may; name what is still missing."""
    absent = [command for command in packages if shutil.which(command) is None]
    if not absent:
        return None
    names = sorted({packages[command] for command in absent})
    subprocess.run(["sh", str(ROOT / "scripts" / "apt.sh"), *names], check=False)
    still = [command for command in absent if shutil.which(command) is None]
    return f"{', '.join(still)} not found: apt-get install {' '.join(names)}" if still else None


def built(what: str, *, without: str) -> str | None:
    """Have `tests/kind/build` build a part of the test cluster, when we may; say in words why there is none.

    Root's machine is one for tests: there the Go programs are built, and Debian packages installed. Others use what is there.
    """
    if os.geteuid() != 0:
        return without
    done = subprocess.run([str(ROOT / "tests/kind/build"), what], stdout=subprocess.DEVNULL, check=False)
    return f"tests/kind/build {what} failed (see above)" if done.returncode else None


def missing_api_server() -> str | None:
    """What the API server of the tests lacks, or Helm."""
    done = subprocess.run(
        [str(ROOT / "tests/kind/build"), "where"], capture_output=True, text=True, check=True
    )
    house = Path(done.stdout.strip())
    assets = Path(os.environ.get("KUBEBUILDER_ASSETS") or house)
    for what, folder, programs in (
        ("assets", assets, ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")),
        ("tools", house, ("helm",)),
    ):
        absent = [program for program in programs if not (folder / program).exists()]
        without = f"{', '.join(absent)} not in {folder}: run tests/kind/build {what}"
        if absent and (reason := built(what, without=without)):
            return reason
    return None


def missing_cluster() -> str | None:
    """What the cluster of the tests lacks."""
    if os.environ.get("DSORT_TEST_KUBECONFIG"):
        return None
    if (
        shutil.which("docker")
        and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
    ):
        return None  # with the published node image
    return built("node", without="it takes root, or Docker, or a cluster named by DSORT_TEST_KUBECONFIG")


LAYERS: Final = (
    Layer("unit", "pure functions, arrays and modules on their own"),
    Layer(
        "local",
        "real worker processes on this machine",
        missing=lambda: missing_tools({"tar": "tar", "bsdtar": "libarchive-tools"}),
    ),
    Layer("apiserver", "the operator against a real API server", missing=missing_api_server),
    Layer("e2e", "chart, image and pods on a real cluster", missing=missing_cluster, measured=False),
)


def named_tests(extra: list[str]) -> list[str]:
    """The layers that pytest's arguments name files, folders or tests of, in the order of the arguments."""
    paths = [Path(one.partition("::")[0]) for one in extra if one.startswith("tests/")]
    return [
        layer.name
        for path in paths
        for layer in LAYERS
        if path.parts[1:2] == (layer.name,) and (ROOT / path).exists()
    ]


def in_memory() -> str | None:
    """A folder in memory for what tests write, or None: thousands of small shards are flushed one by one, and it is not
    the disk that is tested. TMPDIR, where it is set, says otherwise.
    """
    shared = Path("/dev/shm")
    if "TMPDIR" in os.environ or not os.access(shared, os.W_OK):
        return None
    free = os.statvfs(shared)
    available = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), flags=re.MULTILINE)
    enough = (
        free.f_bavail * free.f_frsize >= 4 << 30 and available is not None and int(available[1]) >= 8 << 20
    )
    return tempfile.mkdtemp(prefix="dsort-test-", dir=shared) if enough else None


def core_files() -> list[str]:
    """The pure core, as the import contracts name it: the contract package, and pure modules of worker and operator."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = {one["id"]: one for one in project["tool"]["importlinter"]["contracts"]}
    named = [*contracts["pure-core"]["source_modules"], *contracts["pure-plan"]["source_modules"]]
    modules = [module.split(".") for module in named]
    return [
        "api/dsort_api/*",
        *(f"{package.removeprefix('dsort_')}/{package}/{name}.py" for package, name in modules),
    ]


def run_pytest(folders: list[str], *, report: Path, extra: list[str]) -> tuple[int, list[str]]:
    """Run pytest under coverage; pass its lines on as they come, and return its exit code and its closing lines."""
    command = [
        sys.executable,
        "-m",
        "coverage",
        "run",
        "-m",
        "pytest",
        f"--junitxml={report}",
        *folders,
        *(extra or SIDE_BY_SIDE),
    ]
    if sys.stdout.isatty():
        command.append("--color=yes")
    closing: list[str] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if closing or CLOSING.fullmatch(COLOURS.sub("", line).strip()):
                    closing.append(line)
                else:
                    sys.stdout.write(line)
                    sys.stdout.flush()
        except BaseException:
            process.terminate()  # whoever ends us must not have to look for pytest
            raise
    return process.returncode, closing


def outcomes(report: Path) -> dict[str, Counter[str]]:
    """What became of the tests, by layer, from pytest's own report."""
    counts: dict[str, Counter[str]] = {}
    if not report.exists():
        return counts
    for case in ET.parse(report).getroot().iter("testcase"):
        parts = case.get("classname", "").split(".")
        layer = parts[1] if parts[0] == "tests" and len(parts) > 1 else parts[0]
        outcome = next(
            (child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed"
        )
        counts.setdefault(layer, Counter())[outcome] += 1
        counts[layer]["milliseconds"] += round(1000 * float(case.get("time", "0")))
    return counts


def coverage(*arguments: str) -> int:
    """Run one command of coverage, its output passed on."""
    return subprocess.run([sys.executable, "-m", "coverage", *arguments], cwd=ROOT, check=False).returncode


def gates() -> list[str]:
    """Combine what every process recorded, print it, and say which gate does not hold."""
    failures = []
    place = Path(os.environ["COVERAGE_FILE"])
    for data in place.parent.glob(f"{place.name}.*"):
        if not data.stat().st_size:
            data.unlink()  # of a process that a test killed while it wrote: every report would warn of it
    coverage("combine", "--quiet")
    print(f"\ncoverage of the whole, at least {WHOLE_LEAST} %", flush=True)
    if coverage("report", f"--fail-under={WHOLE_LEAST}"):
        failures.append(f"coverage of the whole is under {WHOLE_LEAST} %")
    print(f"\ncoverage of the pure core, {CORE_LEAST} %", flush=True)
    if coverage("report", f"--include={','.join(core_files())}", f"--fail-under={CORE_LEAST}"):
        failures.append(f"coverage of the pure core is under {CORE_LEAST} %")
    return failures


def main() -> int:
    """Choose the layers, run them, and end with pytest's own words."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "layers", nargs="*", help=f"of {', '.join(one.name for one in LAYERS)} (default: all)"
    )
    arguments, extra = sys.argv[1:], []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, extra = arguments[:cut], arguments[cut + 1 :]
    asked = parser.parse_args(arguments).layers
    if unknown := set(asked) - {one.name for one in LAYERS}:
        parser.error(f"no such layer: {', '.join(sorted(unknown))}")

    named = named_tests(extra)
    asked = asked or named
    if stray := set(named) - set(asked):
        parser.error(f"tests of a layer that is not asked for: {', '.join(sorted(stray))}")

    began = time.monotonic()
    why_not: dict[str, str] = {}
    chosen = []
    for layer in LAYERS:
        if asked and layer.name not in asked:
            why_not[layer.name] = NOT_ASKED
        elif not layer.folder.is_dir():
            why_not[layer.name] = f"{layer.folder.relative_to(ROOT)} is not there"
        elif reason := layer.missing():
            why_not[layer.name] = reason
        else:
            chosen.append(layer)

    scratch = Path(os.environ.setdefault("COVERAGE_FILE", str(ROOT / ".coverage"))).parent
    scratch.mkdir(parents=True, exist_ok=True)
    report = scratch / "junit.xml"
    report.unlink(missing_ok=True)
    coverage("erase")
    folders = [str(layer.folder.relative_to(ROOT)) for layer in chosen if layer.name not in named]
    memory = in_memory()
    if memory is not None:
        os.environ["TMPDIR"] = memory
    try:
        code, closing = run_pytest(folders, report=report, extra=extra) if chosen else (1, [])
    finally:
        if memory is not None:
            shutil.rmtree(memory, ignore_errors=True)

    failures = []
    if all(layer in chosen for layer in LAYERS if layer.measured) and not extra:
        failures += gates()
    else:
        print("\ncoverage: no gates, because not every layer ran whole")

    counts = outcomes(report)
    print(f"\nlayers ({time.monotonic() - began:.0f} s in all)")
    for layer in LAYERS:
        if layer.name in why_not:
            print(f"  {layer.name:<10} did not run: {why_not[layer.name]}")
            if os.environ.get("CI") == "true" and why_not[layer.name] != NOT_ASKED:
                failures.append(f"layer {layer.name} did not run: {why_not[layer.name]}")
        else:
            count = counts.get(layer.name, Counter())
            seconds = count.pop("milliseconds", 0) / 1000
            words = (
                ", ".join(f"{number} {outcome}" for outcome, number in sorted(count.items())) or "no tests"
            )
            print(f"  {layer.name:<10} ran: {words} in {seconds:.1f} s ({layer.what})")
    for failure in failures:
        print(f"error: {failure}")
    print()
    sys.stdout.write("".join(closing))
    sys.stdout.flush()
    return code or bool(failures)


if __name__ == "__main__":
    sys.exit(main())
