"""Every example of the documentation is a job that the strict loader takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from dsort_api.spec import load_job

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(
    path for path in (ROOT / "examples").rglob("*.yaml") if "kind: DSortJob" in path.read_text().splitlines()
)
PAGES = [str(path.relative_to(ROOT)) for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_example_loads_strictly(path: Path) -> None:
    job = load_job(yaml.safe_load(path.read_text()), strict=True)
    assert job.metadata.name


def test_the_examples_are_where_the_documents_say() -> None:
    found = {str(path.relative_to(ROOT / "examples").with_suffix("")) for path in EXAMPLES}
    assert found >= {"shuffle", "sort-by-key", "repack", "split-evenly", "kubernetes/shuffle"}


def test_what_an_example_names_for_a_cluster_is_beside_it() -> None:
    claim = yaml.safe_load((ROOT / "examples/kubernetes/claim.yaml").read_text())
    job = load_job(yaml.safe_load((ROOT / "examples/kubernetes/shuffle.yaml").read_text()), strict=True)
    for url in (job.spec.input.url, job.spec.output.url):
        assert url.startswith(f"pvc://{claim['metadata']['name']}/")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize("page", PAGES)
def test_every_job_in_a_page_loads_strictly(page: str) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL):
        document = yaml.safe_load(block)
        if isinstance(document, dict) and document.get("kind") == "DSortJob":
            load_job(document, strict=True)


def test_readme_shows_two_commands_first_and_they_are_targets() -> None:
    readme = (ROOT / "README.md").read_text()
    first = re.search(r"```console\n(.*?)```", readme, flags=re.DOTALL)
    assert first is not None
    commands = re.findall(r"^\$ ([^#\n]*?)\s*(?:#.*)?$", first[1], flags=re.MULTILINE)
    assert commands == ["make demo", "make test"]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert {command.removeprefix("make ") for command in commands} <= set(targets)


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_tree_lead_somewhere(page: str) -> None:
    path = ROOT / page
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text())
    dead = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert dead == []
