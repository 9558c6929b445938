"""Start-up time is a feature: a start pays only for the modules it uses."""

from __future__ import annotations

import subprocess
import sys

import pytest


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


def test_the_package_itself_imports_nothing() -> None:
    assert not [name for name in modules_after("import dsort_api") if name.startswith("dsort_api.")]


@pytest.mark.parametrize("module", ["labels", "reasons", "quantity", "templates", "urls"])
def test_pure_modules_do_without_pydantic(module: str) -> None:
    assert "pydantic" not in modules_after(f"import dsort_api.{module}")


def test_a_job_is_loaded_without_what_only_the_generator_and_mistakes_need() -> None:
    met = modules_after("import dsort_api.spec, dsort_api.messages")
    assert not met & {"argparse", "difflib", "dsort_api.crd", "dsort_api.status", "yaml", "numpy", "asyncio"}


def test_the_pod_template_is_imported_by_the_job_that_has_one() -> None:
    load = "from dsort_api.spec import Workers; Workers.model_validate({})"
    assert "dsort_api.podtemplate" not in modules_after(load)
    assert "dsort_api.podtemplate" in modules_after(load.replace("{}", "{'template': {}}"))
