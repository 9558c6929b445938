"""A rank: the job as a story of six steps.

    list      rank 0 pins the inputs; everybody learns which shards are its share
    scan      index the own shards; every record becomes a row
    order     sample, split, pull the rows of the own key range from every rank, sort
    pack      from totals and cells: which row goes into which output shard, and who builds it
    create    build the own shards window by window and commit them
    publish   when every shard of every rank is committed: give them their names; the manifest last

Every rank runs the same program. A rank that restarts goes through the steps again: decisions are read from rank 0, rows and
bytes are asked for again, and shards that have a commit record are not built twice.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from dsort_api.messages import Outcome, Phase, PlannedOutput, PlannedShard, PlanTotals, Totals
from dsort_api.reasons import DSortError, Reason
from dsort_api.spec import DSortJobSpec, Reaction
from dsort_api.templates import OutputTemplate
from dsort_worker import packing, steps
from dsort_worker.assemble import Assembler
from dsort_worker.collisions import count_collisions
from dsort_worker.decisions import Decisions
from dsort_worker.findings import Finding, FindingsLog
from dsort_worker.flows import Flows
from dsort_worker.layout import extended, packing_rule, shards_of
from dsort_worker.merge import Run
from dsort_worker.ordering import Ordering
from dsort_worker.peers import Peers
from dsort_worker.pools import Pools
from dsort_worker.rows import RowBlock
from dsort_worker.rowstore import RowStore
from dsort_worker.scan import Indexer, Scanned, needs_keys, scan_share, tar_indexer
from dsort_worker.serve import Offers
from dsort_worker.shardfiles import ShardFiles
from dsort_worker.shardwriter import OutputShard, ShardWriter
from dsort_worker.staging import Staging
from dsort_worker.state import Counters, RankState
from dsort_worker.steps import Document, Listed
from dsort_worker.stream import Stream
from dsort_worker.threads import in_thread

log: Final = logging.getLogger("dsort.rank")

_BEHIND: Final = 8
"""Shards that may wait for the disk behind the one being written."""


class Rank:
    """One rank's work on one job. Everything it needs from outside is handed to it; `run` is the story."""

    def __init__(
        self,
        *,
        rank: int,
        ranks: int,
        spec: DSortJobSpec,
        input_root: str,
        staging: Staging,
        scratch: str | None,
        room: int,
        open_files: int,
        short_circuit: bool,
        list_plan: bool,
        state: RankState,
        peers: Peers,
        offers: Offers,
        pools: Pools,
        flows: Flows,
        findings: FindingsLog,
        decisions: Decisions | None,
        on_listed: Callable[[Listed], None],
        cancelled: Callable[[], bool],
        indexer: Indexer | None = None,
    ) -> None:
        self._rank = rank
        self._ranks = ranks
        self._spec = spec
        self._input_root = input_root
        self._staging = staging
        self._open_files = open_files
        self._short_circuit = short_circuit
        self._list_plan = list_plan
        self._state = state
        self._peers = peers
        self._offers = offers
        self._pools = pools
        self._flows = flows
        self._findings = findings
        self._decisions = decisions
        self._on_listed = on_listed
        self._cancelled = cancelled
        self._indexer = indexer
        self._template = OutputTemplate.parse(spec.output.name)
        self._collisions = 0
        self._ordering = Ordering(
            spec.order, ranks=ranks, room=room, folder=scratch, on_spill=state.spill, cancelled=cancelled
        )

    async def run(self) -> Outcome:
        """Go through all steps. Raises DSortError; cancelled when the rank is told to stop."""
        listed = await self._list()
        if listed.manifest is not None:
            return Outcome(state="AlreadyComplete", manifest=listed.manifest)
        files = ShardFiles(listed.shards, root=self._input_root, capacity=self._open_files)
        self._offers.files.set(files)
        scanned = await self._scan(listed, files)
        block = await self._order(scanned)
        block, shards = await self._pack(block, listed)
        if self._spec.dry_run:
            return await self._plan(scanned, shards, listed)
        await self._create(block, shards, listed, files)
        outcome = await self._publish(scanned, shards, listed, files)
        files.close()
        return outcome

    async def _list(self) -> Listed:
        self._state.enter(Phase.LIST)
        listed = steps.read_listed(await self._step(steps.LIST, {}))
        self._on_listed(listed)
        if self._rank == 0 and self._spec.input.missing_shards is Reaction.WARN:
            for name in listed.missing:  # in every life: the list of an earlier one is not this one's
                self._findings.report(Finding("missingShards", name, "", 0, "is missing"))
        return listed

    def _share(self, listed: Listed) -> range:
        """The ordinals of the shards that this rank scans."""
        return range(listed.first[self._rank], listed.first[self._rank + 1])

    async def _scan(self, listed: Listed, files: ShardFiles) -> Scanned:
        counters = Counters()
        self._state.enter(Phase.SCAN, counters)
        return await in_thread(
            self._pools.compute,
            scan_share,
            self._share(listed),
            self._spec,
            files=files,
            index=self._indexer
            or tar_indexer(files, self._spec, findings=self._findings, cancelled=self._cancelled),
            findings=self._findings,
            counters=counters,
            room=self._ordering.room,
            spill=self._ordering.spill,
        )

    async def _order(self, scanned: Scanned) -> RowBlock:
        """Sort the own rows, offer them, and pull the rows of the own key range."""
        self._state.enter(Phase.ORDER)
        block, scanned.block = scanned.block, RowBlock.empty()
        ordering = self._ordering
        if self._ranks == 1:
            return await in_thread(self._pools.compute, ordering.sort_alone, block)
        store = await in_thread(self._pools.compute, ordering.store, block)
        del block
        report = steps.sample_report(store.bounds, records=store.rows)
        splitters = steps.read_splitters(await self._step(steps.SPLIT, report))
        cuts = await in_thread(
            self._pools.compute,
            store.cut,
            splitters,
            ranks=self._ranks,
            descending=self._spec.order.descending,
        )
        self._offers.rows.set((store, cuts))
        async with asyncio.TaskGroup() as group:
            pulls = [group.create_task(self._pull_rows(store, cuts, rank)) for rank in range(self._ranks)]
        arrived = [pull.result() for pull in pulls]
        del pulls
        return await in_thread(self._pools.compute, ordering.join, arrived)

    async def _pull_rows(self, store: RowStore, cuts: list[int], rank: int) -> RowBlock | RowStore | Run:
        if rank == self._rank:
            return await in_thread(
                self._pools.compute, self._ordering.own_range, store, cuts[rank], cuts[rank + 1], rank=rank
            )
        return await self._pull(rank, f"/v1/rows/{self._rank}", has_keys=needs_keys(self._spec))

    async def _pull(self, rank: int, path: str, *, has_keys: bool) -> RowBlock | RowStore:
        """Rows that a rank offers."""
        sink = await self._peers.stream(
            rank, path, sink=lambda: self._ordering.receiver(rank, has_keys=has_keys)
        )
        return await in_thread(self._pools.compute, sink.finish)

    async def _pack(self, block: RowBlock, listed: Listed) -> tuple[RowBlock, list[OutputShard]]:
        """Number the output shards, and take over the rows of the last own one that lie on later ranks."""
        self._state.enter(Phase.PACK)
        totals = steps.read_totals(
            await self._step(steps.TOTAL, steps.total_report(packing.total_of(block.rows)))
        )
        before = packing.bases(totals)
        cells = await in_thread(
            self._pools.compute,
            packing.cut_cells,
            block.rows,
            packing_rule(self._spec.output),
            before=before[self._rank],
            everything=before[-1],
        )
        # All that a peer can ask for: what belongs to a shard that began on an earlier rank.
        first = int(cells.first[1]) if len(cells) > 1 else len(block)
        if self._rank:
            self._offers.cell.set(await in_thread(self._pools.compute, self._ordering.head, block, first))
        numbering = steps.read_numbering(
            await self._step(steps.NUMBER, steps.cells_report(cells.range)), rank=self._rank
        )
        shards = shards_of(cells, len(block), numbering=numbering, template=self._template)
        later = []
        if shards:
            # The rows of later ranks that belong to the last own shard.
            later = [await self._pull(rank, "/v1/cell", has_keys=False) for rank in numbering.continues_on]
        foreign = first if numbering.first_is_foreign else 0
        mine = await in_thread(self._pools.compute, self._ordering.extend, block, foreign, later)
        if later:
            shards[-1] = extended(shards[-1], mine.rows[-sum(part.extent.rows for part in later) :])
        self._collisions = await in_thread(
            self._pools.compute,
            count_collisions,
            mine.rows,
            shards,
            how=self._ordering.how,
            reaction=self._spec.records.collisions,
            inputs=[shard.name for shard in listed.shards],
            report=self._findings.report,
        )
        return mine, shards

    async def _plan(self, scanned: Scanned, shards: list[OutputShard], listed: Listed) -> Outcome:
        """Dry run: rank 0 answers with the shards that all ranks would build."""
        report = {
            "totals": [
                len(shards),
                sum(shard.records for shard in shards),
                sum(shard.size for shard in shards),
            ],
            "shards": [[shard.number, shard.name, shard.size, shard.records] for shard in shards]
            if self._list_plan
            else [],
            "counts": self._counts(scanned),
        }
        decision = await self._step(steps.PLAN, report)
        if self._rank:
            return Outcome(state="Planned")
        reports = decision["reports"]
        number, records, size = (
            sum(column) for column in zip(*(one["totals"] for one in reports), strict=True)
        )
        log.info("planned: %d shards of %d records, %d bytes", number, records, size)
        counts = steps.add_counts(reports).model_copy(
            update={"shards_listed": len(listed.shards), "shards_missing": len(listed.missing)}
        )
        planned = [
            PlannedShard(name=name, bytes=size, records=records)
            for _, name, size, records in sorted(entry for one in reports for entry in one["shards"])
        ]
        totals = PlanTotals(shards=number, records=records, bytes=size)
        return Outcome(state="Planned", plan=PlannedOutput(totals=totals, shards=planned, counts=counts))

    async def _create(
        self, block: RowBlock, shards: list[OutputShard], listed: Listed, files: ShardFiles
    ) -> None:
        """Build the own shards that are not committed yet."""
        done = await in_thread(self._pools.compute, self._committed_of, shards)
        missing = [shard for shard in shards if shard.number not in done]
        records = np.array([shard.records for shard in shards], dtype=np.int64)
        firsts = (np.cumsum(records) - records)[[shard.number not in done for shard in shards]]
        stream = await in_thread(self._pools.compute, Stream, block.rows, block.extra, missing, firsts=firsts)
        counters = Counters(
            records_total=stream.records,
            bytes_total=stream.size,
            shards_total=len(shards),
            shards_done=len(shards) - len(missing),
        )
        self._state.enter(Phase.CREATE, counters)

        def written(records: int, size: int) -> None:
            counters.records_done += records
            counters.bytes_done += size

        def committed(_: OutputShard) -> None:
            counters.shards_done += 1

        first = np.array(listed.first[1:-1], dtype=np.int64)
        owners = np.searchsorted(first, np.arange(len(listed.shards)), side="right")
        assembler = Assembler(
            files=files,
            peers=self._peers,
            rank=self._rank,
            owner_of=None if self._short_circuit else owners,
            flows=self._flows,
            fillers=self._pools.fill,
            flusher=self._pools.flush,
            writer=ShardWriter(self._staging, closers=self._pools.close, behind=_BEHIND, on_commit=committed),
            on_written=written,
            cancelled=self._cancelled,
        )
        await assembler.build(stream)

    def _committed_of(self, shards: list[OutputShard]) -> set[int]:
        """Numbers of the shards that have a valid commit record, checked against what would be built."""
        numbers = self._staging.committed_numbers()
        done: set[int] = set()
        for shard in shards:
            commit = self._staging.committed(shard.number) if shard.number in numbers else None
            if commit is not None and (commit.name, commit.bytes, commit.records) == (
                shard.name,
                shard.size,
                shard.records,
            ):
                done.add(shard.number)
        return done

    async def _publish(
        self, scanned: Scanned, shards: list[OutputShard], listed: Listed, files: ShardFiles
    ) -> Outcome:
        """Wait until every rank has committed its shards, give the own ones their names, wait for the manifest."""
        self._state.enter(Phase.PUBLISH)
        await in_thread(self._pools.compute, self._findings.close)
        await self._step(steps.COMMIT, {})
        # Only now has every rank read all that it needs of them, so only now can it be said that they are what was listed.
        await in_thread(self._pools.compute, files.check_unchanged, self._share(listed))
        await in_thread(self._pools.compute, self._publish_shards, shards)
        report = {
            "counts": self._counts(scanned),
            "records": {str(shard): records for shard, records in scanned.records.items()},
            "findings": self._findings.name,
        }
        decision = await self._step(steps.PUBLISH, report)
        return Outcome(
            state="Complete",
            manifest=decision["manifest"],
            totals=Totals.model_validate(decision["totals"]),
        )

    def _publish_shards(self, shards: list[OutputShard]) -> None:
        for shard in shards:
            commit = self._staging.committed(shard.number)
            if commit is None:
                raise DSortError(
                    Reason.OUTPUT_UNWRITABLE,
                    f"shard {shard.name} was committed and its staged file is gone from {self._staging.home}",
                )
            self._staging.publish(commit)
        self._findings.publish()

    def _counts(self, scanned: Scanned) -> dict[str, int]:
        """This rank's counts, by the names of the manifest. A collision belongs to the rank that builds the shard."""
        counts = scanned.counts
        return {
            "shards_corrupt": scanned.corrupt,
            "records_in": counts.records,
            "members_in": counts.members,
            "directories": counts.directories,
            "global_headers": counts.global_headers,
            "duplicates": counts.duplicates,
            "unsupported": counts.unsupported,
            "trailing_data": counts.trailing_data,
            "collisions": self._collisions,
            "records_left_out": counts.records_left_out,
            "members_left_out": counts.members_left_out,
        }

    async def _step(self, step: str, report: Document) -> Any:
        """Report to rank 0 and get the step's decision, as soon as every rank has reported."""
        if self._decisions is not None:
            decision: bytes | None = None
            while decision is None:
                decision = await self._decisions.decide(step, rank=0, report=report, wait=60.0)
            return json.loads(decision)
        body = json.dumps({"rank": self._rank, "report": report}).encode()
        return json.loads(await self._peers.post_json(0, f"/v1/steps/{step}", body))
