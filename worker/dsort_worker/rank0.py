"""What rank 0 decides with a disk at hand: the listing, whether output names are free, and the manifest.

Each function is a step's `Decide` (see `decisions`): it runs once, in a thread, with the reports of all ranks.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from dsort_api.manifest import InputShard, Manifest, ManifestJob, OutputShardRecord, RunFacts
from dsort_api.messages import JobDefinition, Totals
from dsort_api.quantity import several
from dsort_api.reasons import DSortError, Reason
from dsort_api.spec import DSortJobSpec, job_fingerprint
from dsort_api.templates import OutputTemplate
from dsort_worker import steps
from dsort_worker.decisions import Decide
from dsort_worker.layout import packing_rule
from dsort_worker.listing import Listing, take_listing
from dsort_worker.staging import MANIFEST, Staging, place, sync_folder, unwritable
from dsort_worker.steps import Document, Listed
from dsort_worker.verify import read_manifest, verify_output


class RankZero:
    """The deciding side of one job. input_root and output_root: the folders behind the job's urls."""

    def __init__(
        self,
        job: JobDefinition,
        *,
        staging: Staging,
        input_root: str,
        output_root: str,
    ) -> None:
        self._job = job
        self._spec = job.spec
        self._staging = staging
        self._input_root = input_root
        self._output_root = output_root
        self._started = time.time()
        self._template = OutputTemplate.parse(job.spec.output.name)
        self.listed = Listed((), (), ())

    def decides(self) -> dict[str, Decide]:
        """All steps by name."""
        return {
            steps.LIST: self._list,
            steps.SPLIT: self._split,
            steps.TOTAL: steps.total,
            steps.NUMBER: self._number,
            steps.PLAN: lambda reports: {"reports": list(reports)},
            steps.COMMIT: lambda reports: {"reports": list(reports)},
            steps.PUBLISH: self._publish,
        }

    def _list(self, reports: Sequence[Document]) -> Document:
        self._refuse_outputs_as_inputs()
        manifest = None if self._spec.dry_run else self._completed_before()
        if manifest is not None:
            return steps.listed_document(Listed((), (), (0,) * (len(reports) + 1), manifest))
        listing = take_listing(self._spec.input, root=self._input_root)
        expected = self._job.fingerprint
        if expected and expected != job_fingerprint(self._spec, listing.shards):
            # What is staged under this job's id belongs to the inputs as they were.
            newest = max(listing.shards, key=lambda shard: shard.mtime_ns)
            raise DSortError(
                Reason.INPUT_CHANGED,
                f"{self._spec.input.url} changed while the job started (shard {newest.name} was modified last); run the job "
                "again",
            )
        return steps.listed_document(self._pinned(listing, len(reports)))

    def _refuse_outputs_as_inputs(self) -> None:
        """Without `shards` every archive below the input is read: the next run would read what this one wrote."""
        if self._spec.input.shards:
            return
        inputs, outputs = os.path.realpath(self._input_root), os.path.realpath(self._output_root)
        if os.path.commonpath([inputs, outputs]) == inputs:
            raise DSortError(
                Reason.INVALID_SPEC,
                f"spec.output.url: {self._spec.output.url} lies in spec.input.url, of which every archive is read; "
                "name the inputs in spec.input.shards, or choose an output outside",
            )

    def _split(self, reports: Sequence[Document]) -> Document:
        rule = packing_rule(self._spec.output)
        return steps.split(reports, rule, descending=self._spec.order.descending)

    def _pinned(self, listing: Listing, ranks: int) -> Listed:
        first = steps.assign([shard.size for shard in listing.shards], ranks=ranks)
        return Listed(listing.shards, listing.missing, first)

    def _completed_before(self) -> str | None:
        """The manifest in the output folder, when it is this job's and the output still is as it says."""
        path = os.path.join(self._output_root, MANIFEST)
        if not os.path.lexists(path):
            return None
        try:
            manifest = read_manifest(self._output_root)
        except DSortError as error:
            why = f"{error.message}; move it away or choose another output"
            raise DSortError(Reason.OUTPUT_EXISTS, f"spec.output.url: {why}") from None
        listing = take_listing(self._spec.input, root=self._input_root)
        if manifest.job.fingerprint != job_fingerprint(self._spec, listing.shards):
            raise DSortError(
                Reason.OUTPUT_EXISTS,
                f"spec.output.url: {path} is the result of another job ({manifest.run.name}): "
                f"{_what_differs(self._spec, manifest.spec)}; move it away or choose another output",
            )
        try:
            verify_output(self._output_root, inputs=[self._input_root])
        except DSortError as error:
            why = f"{error.message}; remove the output and run the job again to have it made anew"
            raise DSortError(error.reason, why) from None
        return path

    def _number(self, reports: Sequence[Document]) -> Document:
        decision = steps.number(reports)
        needed = decision["shards"]
        capacity = self._template.capacity
        if capacity is not None and needed > capacity:
            raise DSortError(
                Reason.OUTPUT_NAMES_EXHAUSTED,
                f"spec.output.name: {self._spec.output.name} has {several(capacity, 'name')}, {needed} are needed; "
                "widen the range or make the shards larger",
            )
        if not self._spec.dry_run:
            self._check_names_free(needed)
        return decision

    def _check_names_free(self, needed: int) -> None:
        with unwritable(self._output_root):
            taken = set(os.listdir(self._output_root))
        mine = {commit.name: commit for commit in self._staging.commits()} if taken else {}
        for number in range(needed):
            name = self._template.name(number)
            if name not in taken or (name in mine and self._staging.is_mine(mine[name])):
                continue
            path = os.path.join(self._output_root, name)
            what = "is an input of this job" if self._is_input(path) else "exists already"
            raise DSortError(
                Reason.OUTPUT_EXISTS, f"spec.output: {path} {what}; move it away or choose another output"
            )

    def _is_input(self, path: str) -> bool:
        relative = os.path.relpath(os.path.realpath(path), os.path.realpath(self._input_root))
        return any(shard.name == relative for shard in self.listed.shards)

    def _publish(self, reports: Sequence[Document]) -> Document:
        """Write the manifest, durable and last. All shards have their names."""
        commits = list(self._staging.commits())
        counts = steps.add_counts(reports).model_copy(
            update={
                "shards_listed": len(self.listed.shards),
                "shards_missing": len(self.listed.missing),
                "records_out": sum(commit.records for commit in commits),
                "members_out": sum(commit.members for commit in commits),
            }
        )
        counts.check()
        records = {int(shard): number for report in reports for shard, number in report["records"].items()}
        finished = time.time()
        manifest = Manifest(
            job=ManifestJob(fingerprint=job_fingerprint(self._spec, self.listed.shards)),
            spec=self._spec,
            seed=self._spec.order.seed or 0,
            missing=list(self.listed.missing),
            run=RunFacts(
                id=self._job.id,
                name=self._job.name,
                input_url=self._spec.input.url,
                output_url=self._spec.output.url,
                started=_rfc3339(self._started),
                finished=_rfc3339(finished),
                seconds=round(finished - self._started, 3),
                ranks=self._job.ranks,
                version=version("dsort-operator"),
                findings=[report["findings"] for report in reports if report["findings"]],
            ),
            inputs=[
                InputShard(
                    name=shard.name, size=shard.size, mtime_ns=shard.mtime_ns, records=records.get(ordinal, 0)
                )
                for ordinal, shard in enumerate(self.listed.shards)
            ],
            outputs=[
                OutputShardRecord(
                    name=commit.name,
                    bytes=commit.bytes,
                    records=commit.records,
                    members=commit.members,
                    checksum=f"xxh128:{commit.checksum}",
                )
                for commit in commits
            ],
            counts=counts,
        )
        path = os.path.join(self._output_root, MANIFEST)
        temporary = self._staging.manifest_path()
        with unwritable(path):
            sync_folder(self._output_root)  # the shards' names are on disk before the manifest says so
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(manifest.model_dump_json(by_alias=True, indent=1, exclude_none=True))
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            try:
                place(temporary, path)
            except FileExistsError:
                if not _is_same(path, manifest):
                    raise DSortError(
                        Reason.OUTPUT_EXISTS,
                        f"spec.output.url: {path} was put there while the job ran; move it away or choose another output",
                    ) from None
            finally:
                with contextlib.suppress(FileNotFoundError):  # moved, where there are no hard links
                    os.unlink(temporary)
            sync_folder(self._output_root)
        return {"manifest": path, "totals": _totals(manifest).model_dump()}


def _totals(manifest: Manifest) -> Totals:
    return Totals(
        records_in=manifest.counts.records_in,
        records_out=manifest.counts.records_out,
        bytes_in=sum(shard.size for shard in manifest.inputs),
        bytes_out=sum(shard.bytes for shard in manifest.outputs),
    )


def _what_differs(now: DSortJobSpec, then: DSortJobSpec) -> str:
    """The fields that make it another job, or what lies behind them."""
    parts = {"input", "output", "order", "records"}
    ours, theirs = (one.model_dump(mode="json", by_alias=True, include=parts) for one in (now, then))
    fields = [
        f"spec.{part}.{name}"
        for part in ours
        for name in ours[part]
        if ours[part][name] != theirs[part].get(name)
    ]
    return (
        f"{', '.join(fields)} differ{'s' if len(fields) == 1 else ''}"
        if fields
        else "the input shards have changed"
    )


def _is_same(path: str, manifest: Manifest) -> bool:
    """Whether the manifest there is what an earlier life of rank 0 wrote, which could not say so any more."""
    try:
        with open(path, encoding="utf-8") as file:
            there = Manifest.model_validate_json(file.read())
    except ValueError:
        return False
    return there.run.id == manifest.run.id and there.model_copy(update={"run": manifest.run}) == manifest


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
