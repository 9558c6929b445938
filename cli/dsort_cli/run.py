"""`dsort run` and `dsort plan`: from the manifest file to the exit code.

The order matters: the nursery imports beside all of this, the ranks are asked for as soon as the job is known, and only then is imported what is
needed to drive them.
"""

from __future__ import annotations

import gc
import os
import time
from typing import TYPE_CHECKING

from dsort_api.reasons import EXIT_CODES, DSortError, Reason
from dsort_cli.jobfile import read_job

if TYPE_CHECKING:
    import argparse

    from dsort_api.messages import Failure
    from dsort_api.spec import DSortJob, Memory
    from dsort_cli.folder import JobFolder
    from dsort_cli.local import End, LocalRun
    from dsort_cli.processes import Nursery
    from dsort_cli.report import Reporter

_LEAST_ID = 16
"""Hex digits of the fingerprint that name a job locally."""


def run(options: argparse.Namespace, *, nursery: Nursery) -> int:
    """Run or plan the job that the command line names; returns the exit code."""
    began = time.monotonic()
    gc.disable()  # until all is imported: collections would find nothing and take a tenth of that time
    reporter: Reporter | None = None
    try:
        job = _job(options)
        reporter = _reporter(options)
        return _run(job, options, nursery=nursery, reporter=reporter, began=began)
    except DSortError as error:
        reporter = reporter or _reporter(options)
        reporter.failed(_failure(error), exit_code=error.exit_code, hint="")
        return error.exit_code
    finally:
        gc.enable()
        if reporter is not None:
            reporter.close()


def _job(options: argparse.Namespace) -> DSortJob:
    """The job of the manifest with what the command line says about it."""
    job = read_job(options.file)
    spec = job.spec
    if options.memory is not None:
        spec = spec.model_copy(update={"memory": _memory(options.memory)})
    if options.command == "plan":
        spec = spec.model_copy(update={"dry_run": True})
    return job.model_copy(update={"spec": spec})


def _memory(text: str) -> Memory:
    from pydantic import ValidationError

    from dsort_api.quantity import format_bytes
    from dsort_api.spec import LEAST_BUDGET, Memory

    try:
        return Memory.model_validate({"budget": text})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        least = first["type"] == "greater_than_equal"
        why = (
            f"at least {format_bytes(LEAST_BUDGET)}" if least else first["msg"].removeprefix("Value error, ")
        )
        raise DSortError(Reason.INVALID_SPEC, f"--memory {text}: {why}") from None


def _run(
    job: DSortJob, options: argparse.Namespace, *, nursery: Nursery, reporter: Reporter, began: float
) -> int:
    from dsort_api.spec import job_fingerprint
    from dsort_worker.listing import take_listing
    from dsort_worker.locations import resolve

    spec = job.spec
    volumes = dict(options.claims)
    inputs = resolve(spec.input.url, volumes, field="spec.input.url")
    output = resolve(spec.output.url, volumes, field="spec.output.url")
    listing = take_listing(spec.input, root=inputs)
    job_id = job_fingerprint(spec, list(listing.shards))[:_LEAST_ID]
    folder = None if spec.dry_run else _claim(output, job_id)
    keep = True
    try:
        runner = _start_ranks(
            job, options, job_id=job_id, nursery=nursery, reporter=reporter, folder=folder, began=began
        )
        reporter.started(job_id, name=job.metadata.name, ranks=runner.ranks, output=output)
        end = _drive(runner)
        nursery.close()  # before anything is removed: nobody writes there any more
        result = _report(
            end,
            job_id=job_id,
            runner=runner,
            reporter=reporter,
            output=output,
            folder=folder,
            began=began,
        )
    except DSortError as error:
        from dsort_cli.decide import KEEPS_STAGING

        keep = error.reason in KEEPS_STAGING
        raise
    except BaseException as error:
        # A signal before the loop ran keeps nothing; a bug keeps what there is.
        keep = isinstance(error, Exception)
        raise
    else:
        code, keep = result
        return code
    finally:
        nursery.close()
        if folder is not None:
            folder.release(keep=keep)


def _claim(output: str, job_id: str) -> JobFolder:
    from dsort_cli.folder import claim

    return claim(output, job_id)


def _start_ranks(
    job: DSortJob,
    options: argparse.Namespace,
    *,
    job_id: str,
    nursery: Nursery,
    reporter: Reporter,
    folder: JobFolder | None,
    began: float,
) -> LocalRun:
    """Ask the nursery for every rank; what drives them is imported while they start."""
    from dsort_api.messages import PROTOCOL, JobDefinition

    spec = job.spec
    ranks = options.workers or spec.workers.count or 1
    definition = JobDefinition(protocol=PROTOCOL, id=job_id, name=job.metadata.name, spec=spec, ranks=ranks)
    job_fd = os.memfd_create("dsort-job", os.MFD_CLOEXEC)
    _write_all(job_fd, definition.model_dump_json(by_alias=True, exclude_none=True).encode())
    token = os.urandom(24).hex()
    settings = {"token": token, "volumes": dict(options.claims), "short_circuit": options.short_circuit}

    def start_rank(rank: int) -> None:
        nursery.start(rank, settings=settings, job_fd=job_fd, lock_fd=folder.lock_fd if folder else None)

    for rank in range(ranks):
        start_rank(rank)
    from dsort_cli.local import LocalRun

    gc.freeze()
    gc.enable()
    return LocalRun(
        nursery=nursery,
        start_rank=start_rank,
        job_fd=job_fd,
        ranks=ranks,
        token=token,
        memory_budget=spec.memory.bytes,
        backoff_limit=spec.backoff_limit,
        began=began,
        deadline=began + spec.active_deadline_seconds if spec.active_deadline_seconds else None,
        reporter=reporter,
    )


def _drive(runner: LocalRun) -> End:
    import asyncio

    try:
        return asyncio.run(runner.run())
    finally:
        os.close(runner.job_fd)


def _report(
    end: End,
    *,
    job_id: str,
    runner: LocalRun,
    reporter: Reporter,
    output: str,
    folder: JobFolder | None,
    began: float,
) -> tuple[int, bool]:
    """Tell how it ended; returns the exit code and whether what was staged is kept."""
    from dsort_cli.folder import is_complete
    from dsort_cli.summary import Summary, completed_amounts

    failure = end.failure
    if failure is not None and not (folder is not None and is_complete(output, job_id)):
        return _report_failure(failure, runner=runner, reporter=reporter, staged=folder is not None)
    # A signal or a dead rank after the manifest was written changes nothing: the result is whole.
    outcome = end.outcome
    plan = outcome.plan if outcome else None
    manifest = None
    if plan is not None:
        amounts = (
            sum(shard.records for shard in plan.shards),
            len(plan.shards),
            sum(shard.bytes for shard in plan.shards),
        )
    else:
        from dsort_worker.staging import MANIFEST

        manifest = outcome.manifest if outcome and outcome.manifest else os.path.join(output, MANIFEST)
        amounts = completed_amounts(manifest)
    if end.warnings and manifest is not None:
        reporter.warning(
            f"{end.warnings} findings in all; every one is named in {output}/dsort-findings-*.jsonl"
        )
    summary = Summary(
        state=outcome.state if outcome else "Complete",
        job=job_id,
        ranks=runner.ranks,
        seconds=time.monotonic() - began,
        records=amounts[0],
        shards=amounts[1],
        bytes=amounts[2],
        output=output,
        manifest=manifest,
        plan=plan,
        peak_rss=end.peak_rss,
        restarts=runner.restarts,
        warnings=end.warnings,
    )
    reporter.result(summary)
    return 0, False


def _report_failure(
    failure: Failure, *, runner: LocalRun, reporter: Reporter, staged: bool
) -> tuple[int, bool]:
    from dsort_cli.decide import KEEPS_STAGING

    keep = staged and failure.reason in KEEPS_STAGING
    hint = "what was finished is kept, run the same job again to continue" if keep else ""
    code = (
        128 + runner.signals[0]
        if failure.reason is Reason.ABORTED and runner.signals
        else EXIT_CODES[failure.reason]
    )
    reporter.failed(failure, exit_code=code, hint=hint)
    return code, keep


def _failure(error: DSortError) -> Failure:
    from dsort_api.messages import Failure

    return Failure(reason=error.reason, message=error.message)


def _reporter(options: argparse.Namespace) -> Reporter:
    import sys

    from dsort_cli.report import JsonReporter, LineReporter, QuietReporter

    if options.json:
        return JsonReporter()
    if options.quiet:
        return QuietReporter()
    if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        from dsort_cli.live import LiveReporter

        return LiveReporter()
    return LineReporter()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
