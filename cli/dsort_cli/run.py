"""`dsort run` and `dsort plan`: from the manifest file to the exit code.

The order matters: what is wrong with the job is said before anything expensive is imported; then everything is
imported once, and the nursery, which ranks are forked from, is forked with it.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from dsort_api.reasons import EXIT_CODES, DSortError, Reason
from dsort_cli.imports import bare_imports
from dsort_cli.jobfile import read_job
from dsort_cli.onemachine import check_may_run, ranks_here

if TYPE_CHECKING:
    import argparse

    from dsort_api.messages import Failure
    from dsort_api.spec import DSortJob
    from dsort_cli.folder import JobFolder
    from dsort_cli.local import End, LocalRun
    from dsort_cli.processes import Nursery
    from dsort_cli.report import Reporter
    from dsort_cli.signals import Signals

_ID_DIGITS = 16
"""Hex digits of the fingerprint that name a job locally."""


class _Command(NamedTuple):
    """What was there when the command began; `began` is its time on the monotonic clock, `budget` bytes of memory for a rank."""

    options: argparse.Namespace
    signals: Signals
    reporter: Reporter
    began: float
    budget: int


def run(options: argparse.Namespace, *, signals: Signals) -> int:
    """Run or plan the job that the command line names; returns the exit code."""
    began = time.monotonic()
    gc.disable()  # until all is imported: collections would find nothing and take a tenth of that time
    with bare_imports():
        import dsort_api.spec  # noqa: F401  (the contract's models, which all that follows needs)

        reporter = _reporter(options)
    try:
        job = _job(options)
        return _run(job, _Command(options, signals, reporter, began, _budget(job, options.memory)))
    except DSortError as error:
        from dsort_api.messages import Failure

        failure = Failure(reason=error.reason, message=error.message)
        reporter.failed(failure, exit_code=error.exit_code, hint="")
        return error.exit_code
    finally:
        gc.enable()
        reporter.close()


def _job(options: argparse.Namespace) -> DSortJob:
    """The job of the manifest with what the command line says about it."""
    job = read_job(options.file)
    spec = job.spec
    if options.command == "plan":
        spec = spec.model_copy(update={"dry_run": True})
    else:
        check_may_run(spec)
    ranks_here(spec, asked=options.workers)
    return job.model_copy(update={"spec": spec})


def _budget(job: DSortJob, asked: str | None) -> int:
    """Bytes of memory for each rank: as many as were `asked` for, or as the spec says."""
    from dsort_api.budgets import local_budget, unworkable
    from dsort_api.quantity import parse_quantity
    from dsort_api.spec import LEAST_BUDGET

    if asked is None:
        if wrong := unworkable(job.spec):
            raise DSortError(Reason.INVALID_SPEC, wrong)
        return local_budget(job.spec)
    try:
        budget = parse_quantity(asked)
    except ValueError as error:
        raise DSortError(Reason.INVALID_SPEC, f"--memory {asked}: {error}") from None
    if budget < LEAST_BUDGET:
        why = f"{budget} bytes are too few for a rank; 64Mi is the least"
        raise DSortError(Reason.INVALID_SPEC, f"--memory {asked}: {why}")
    return budget


def _run(job: DSortJob, command: _Command) -> int:
    from dsort_api.spec import job_fingerprint
    from dsort_cli.decide import KEEPS_STAGING, NO_WORD_ON_OUTPUT
    from dsort_cli.folder import claim
    from dsort_worker.listing import take_listing
    from dsort_worker.locations import resolve

    spec = job.spec
    volumes = dict(command.options.claims)
    inputs = resolve(spec.input.url, volumes, field="spec.input.url")
    output = resolve(spec.output.url, volumes, field="spec.output.url")
    listing = take_listing(spec.input, root=inputs)
    fingerprint = job_fingerprint(spec, listing.shards)
    job_id = fingerprint[:_ID_DIGITS]
    with bare_imports():
        import dsort_worker.main  # noqa: F401  (for the processes that are forked)
        from dsort_cli.processes import Nursery
    folder = None if spec.dry_run else claim(output, job_id)
    keep = True  # what is staged, unless the end says otherwise
    nursery = None
    try:
        nursery = Nursery()
        runner = _start_ranks(job, command, nursery=nursery, fingerprint=fingerprint, folder=folder)
        command.reporter.started(job_id, name=job.metadata.name, ranks=runner.ranks, output=output)
        end = _drive(runner)
        nursery.close()  # before anything is removed: nobody writes there any more
        if end.failure is not None and not (
            end.failure.reason in NO_WORD_ON_OUTPUT and _has_completed(folder)
        ):
            keep = end.failure.reason in KEEPS_STAGING
            return _report_failure(end.failure, command, kept=keep and folder is not None)
        keep = False
        # A signal or a dead rank after the manifest was written changes nothing: the result is whole.
        return _report_success(end, command, runner=runner, job_id=job_id, output=output)
    except DSortError as error:
        keep = error.reason in KEEPS_STAGING
        raise
    finally:
        if nursery is not None:
            nursery.close()
        if folder is not None:
            folder.release(keep=keep)


def _start_ranks(
    job: DSortJob, command: _Command, *, nursery: Nursery, fingerprint: str, folder: JobFolder | None
) -> LocalRun:
    """Ask the nursery for every rank."""
    from dsort_api.messages import JobDefinition

    spec, options = job.spec, command.options
    ranks = ranks_here(spec, asked=options.workers)
    definition = JobDefinition(
        id=fingerprint[:_ID_DIGITS],
        name=job.metadata.name,
        spec=spec,
        ranks=ranks,
        fingerprint=fingerprint,
    )
    job_fd = os.memfd_create("dsort-job", os.MFD_CLOEXEC)
    _write_all(job_fd, definition.model_dump_json(by_alias=True, exclude_none=True).encode())
    token = os.urandom(24).hex()
    settings = {"token": token, "volumes": dict(options.claims), "short_circuit": options.short_circuit}

    def start_rank(rank: int) -> None:
        nursery.start(rank, settings=settings, job_fd=job_fd, lock_fd=folder.lock_fd if folder else None)

    for rank in range(ranks):
        start_rank(rank)
    from dsort_cli.local import LocalRun  # while they start

    gc.freeze()
    gc.enable()
    deadline = spec.active_deadline_seconds
    return LocalRun(
        nursery=nursery,
        start_rank=start_rank,
        job_fd=job_fd,
        ranks=ranks,
        token=token,
        memory_budget=command.budget,
        backoff_limit=spec.backoff_limit,
        began=command.began,
        deadline=command.began + deadline if deadline else None,
        reporter=command.reporter,
        signals=command.signals,
    )


def _drive(runner: LocalRun) -> End:
    import asyncio

    try:
        return asyncio.run(runner.run())
    finally:
        os.close(runner.job_fd)


def _has_completed(folder: JobFolder | None) -> bool:
    """Whether this run wrote the manifest. One that was there before says nothing of what is there now."""
    from dsort_cli.folder import is_complete

    return folder is not None and not folder.was_complete and is_complete(folder.output, folder.job_id)


def _report_success(end: End, command: _Command, *, runner: LocalRun, job_id: str, output: str) -> int:
    from dsort_cli.summary import Summary, completed_amounts
    from dsort_worker.staging import FINDINGS, MANIFEST

    plan = end.outcome.plan if end.outcome else None
    manifest = None
    if plan is not None:
        records, shards, size = plan.totals.records, plan.totals.shards, plan.totals.bytes
    else:
        manifest = os.path.join(output, MANIFEST)
        records, shards, size = completed_amounts(manifest)
        if end.warnings:
            where = os.path.join(output, f"{FINDINGS}*")
            findings = "1 finding" if end.warnings == 1 else f"{end.warnings} findings"
            command.reporter.warning(f"{findings} in all; every one is named in {where}")
    command.reporter.result(
        Summary(
            state=end.outcome.state if end.outcome else "Complete",
            job=job_id,
            ranks=runner.ranks,
            seconds=time.monotonic() - command.began,
            records=records,
            shards=shards,
            bytes=size,
            output=output,
            manifest=manifest,
            plan=plan,
            peak_rss=end.peak_rss,
            restarts=runner.restarts,
            warnings=end.warnings,
        )
    )
    return 0


def _report_failure(failure: Failure, command: _Command, *, kept: bool) -> int:
    signals = command.signals.received
    aborted = failure.reason is Reason.ABORTED and signals
    code = 128 + signals[0] if aborted else EXIT_CODES[failure.reason]
    hint = "what was finished is kept, run the same job again to continue" if kept else ""
    command.reporter.failed(failure, exit_code=code, hint=hint)
    return code


def _reporter(options: argparse.Namespace) -> Reporter:
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
