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
from collections.abc import Callable
from typing import Any

import numpy as np

from dsort_api.messages import Outcome, Phase, PlannedOutput, PlannedShard, Totals
from dsort_api.reasons import DSortError, Reason
from dsort_api.spec import DSortJobSpec, OrderKind
from dsort_api.templates import OutputTemplate
from dsort_worker import packing, steps
from dsort_worker.assemble import Assembler
from dsort_worker.budget import Buffers
from dsort_worker.decisions import Decisions
from dsort_worker.findings import FindingsLog
from dsort_worker.layout import count_collisions, packing_rule, shards_of
from dsort_worker.order import sample_size, sort_order
from dsort_worker.peers import Peers
from dsort_worker.pools import Pools
from dsort_worker.rows import Index, RowBlock, extend_rows, join_blocks, permute_rows
from dsort_worker.rowstore import RowsReceiver, RowStore
from dsort_worker.scan import Indexer, Scanned, needs_keys, scan_share, tar_indexer
from dsort_worker.serve import Offers
from dsort_worker.shardfiles import ShardFiles
from dsort_worker.shardwriter import OutputShard, ShardWriter
from dsort_worker.staging import Staging
from dsort_worker.state import Counters, RankState
from dsort_worker.steps import Document, Listed
from dsort_worker.stream import Stream
from dsort_worker.threads import in_thread

_BEHIND = 8
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
        open_files: int,
        short_circuit: bool,
        state: RankState,
        peers: Peers,
        offers: Offers,
        pools: Pools,
        buffers: Buffers,
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
        self._scratch = scratch
        self._open_files = open_files
        self._short_circuit = short_circuit
        self._state = state
        self._peers = peers
        self._offers = offers
        self._pools = pools
        self._buffers = buffers
        self._findings = findings
        self._decisions = decisions
        self._on_listed = on_listed
        self._cancelled = cancelled
        self._indexer = indexer
        self._template = OutputTemplate.parse(spec.output.name)
        self._descending = spec.order.descending
        self._collisions = 0

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
        outcome = await self._publish(scanned, shards, files)
        files.close()
        return outcome

    async def _list(self) -> Listed:
        self._state.enter(Phase.LIST)
        listed = steps.read_listed(await self._step(steps.LIST, {}))
        self._on_listed(listed)
        return listed

    async def _scan(self, listed: Listed, files: ShardFiles) -> Scanned:
        counters = Counters()
        self._state.enter(Phase.SCAN, counters)
        return await in_thread(
            self._pools.compute,
            scan_share,
            range(listed.first[self._rank], listed.first[self._rank + 1]),
            self._spec,
            files=files,
            index=self._indexer
            or tar_indexer(files, self._spec, findings=self._findings, cancelled=self._cancelled),
            findings=self._findings,
            counters=counters,
        )

    async def _order(self, scanned: Scanned) -> RowBlock:
        """Sort the own rows, offer them, and pull the rows of the own key range."""
        self._state.enter(Phase.ORDER)
        block, scanned.block = scanned.block, RowBlock.empty()
        if self._ranks == 1:
            await in_thread(self._pools.compute, self._sort, block)
            return block
        store = await in_thread(self._pools.compute, self._store_sorted, block)
        del block
        splitters = steps.read_splitters(await self._step(steps.SPLIT, steps.sample_report(store.bounds)))
        cuts = await in_thread(
            self._pools.compute, store.cut, splitters, ranks=self._ranks, descending=self._descending
        )
        self._offers.rows.set((store, cuts))
        async with asyncio.TaskGroup() as group:
            pulls = [group.create_task(self._pull_rows(store, cuts, rank)) for rank in range(self._ranks)]
        blocks = [pull.result() for pull in pulls]
        del pulls
        return await in_thread(self._pools.compute, self._join_sorted, blocks)

    def _sort(self, block: RowBlock) -> None:
        """Sort a block in place. It stands in canonical order, so order None has nothing to do."""
        if self._spec.order.kind is not OrderKind.NONE:
            order = sort_order(block, descending=self._descending)
            block.drop_keys()
            permute_rows(block.rows, order)

    def _store_sorted(self, block: RowBlock) -> RowStore:
        order: Index = (
            np.arange(len(block))
            if self._spec.order.kind is OrderKind.NONE
            else sort_order(block, descending=self._descending)
        )
        return RowStore.write(block, order, folder=self._scratch, sample=sample_size(self._ranks))

    async def _pull_rows(self, store: RowStore, cuts: list[int], rank: int) -> RowBlock:
        if rank == self._rank:
            return await in_thread(self._pools.compute, store.load, cuts[rank], cuts[rank + 1])
        keys = needs_keys(self._spec)
        sink = await self._peers.stream(
            rank, f"/v1/rows/{self._rank}", sink=lambda: RowsReceiver(has_keys=keys)
        )
        return sink.block

    def _join_sorted(self, blocks: list[RowBlock]) -> RowBlock:
        """Merge the ranges of all ranks: in canonical order for the stable sort, which finds the runs already sorted."""
        block = join_blocks(blocks)
        # Ranks scan runs of shards in order, and each range is sorted: equal keys stand in canonical order.
        self._sort(block)
        return block

    async def _pack(self, block: RowBlock, listed: Listed) -> tuple[RowBlock, list[OutputShard]]:
        """Number the output shards, and take over the rows of the last own one that lie on later ranks."""
        self._state.enter(Phase.PACK)
        totals = steps.read_totals(
            await self._step(steps.TOTAL, steps.total_report(packing.total_of(block.rows)))
        )
        before = packing.bases(totals)
        cells = await in_thread(
            self._pools.compute,
            packing.cells_of,
            block.rows,
            packing_rule(self._spec.output),
            before=before[self._rank],
            everything=before[-1],
        )
        if len(cells):
            # All that a peer can ask for: what belongs to a shard that began on an earlier rank.
            first = int(np.searchsorted(cells, cells[0], side="right"))
            self._offers.cell.set(RowBlock(block.rows[:first].copy(), block.extra))
        else:
            first = 0
        numbering, _ = steps.read_numbering(
            await self._step(steps.NUMBER, steps.cells_report(packing.cell_range(cells))), rank=self._rank
        )
        foreign = first if numbering.first_is_foreign else 0
        numbers = packing.shard_numbers(cells, first_number=numbering.first_number)[foreign:]
        if len(numbers) and numbering.continues_on:
            later = [await self._pull_cell(rank) for rank in numbering.continues_on]
            numbers = np.append(numbers, np.full(sum(map(len, later)), numbers[-1]))
            extend_rows(block, later)
        mine = RowBlock(block.rows[foreign:], block.extra)
        shards = await in_thread(self._pools.compute, shards_of, mine.rows, numbers, template=self._template)
        self._collisions = await in_thread(
            self._pools.compute,
            count_collisions,
            mine.rows,
            numbers,
            reaction=self._spec.records.collisions,
            template=self._template,
            inputs=[shard.name for shard in listed.shards],
            report=self._findings.report,
        )
        return mine, shards

    async def _pull_cell(self, rank: int) -> RowBlock:
        """The rows of a later rank that belong to the last own shard."""
        sink = await self._peers.stream(rank, "/v1/cell", sink=lambda: RowsReceiver(has_keys=False))
        return sink.block

    async def _plan(self, scanned: Scanned, shards: list[OutputShard], listed: Listed) -> Outcome:
        """Dry run: rank 0 answers with the shards that all ranks would build."""
        report = {
            "shards": [[shard.number, shard.name, shard.size, shard.records] for shard in shards],
            "counts": self._counts(scanned),
        }
        decision = await self._step(steps.PLAN, report)
        if self._rank:
            return Outcome(state="Planned")
        every = sorted(entry for one in decision["reports"] for entry in one["shards"])
        counts = steps.add_counts(decision["reports"]).model_copy(
            update={"shards_listed": len(listed.shards), "shards_missing": len(listed.missing)}
        )
        planned = [PlannedShard(name=name, bytes=size, records=records) for _, name, size, records in every]
        return Outcome(state="Planned", plan=PlannedOutput(shards=planned, counts=counts))

    async def _create(
        self, block: RowBlock, shards: list[OutputShard], listed: Listed, files: ShardFiles
    ) -> None:
        """Build the own shards that are not committed yet."""
        done = await in_thread(self._pools.compute, self._committed_of, shards)
        missing = [shard for shard in shards if shard.number not in done]
        rows = block.rows
        if done:
            rows = rows[
                np.repeat([shard.number not in done for shard in shards], [s.records for s in shards])
            ]
        stream = await in_thread(self._pools.compute, Stream, rows, block.extra, missing)
        counters = Counters(
            records_total=len(rows),
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
            buffers=self._buffers,
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

    async def _publish(self, scanned: Scanned, shards: list[OutputShard], files: ShardFiles) -> Outcome:
        """Wait until every rank has committed its shards, give the own ones their names, wait for the manifest."""
        self._state.enter(Phase.PUBLISH)
        await in_thread(self._pools.compute, files.check_unchanged, sorted(scanned.records))
        await in_thread(self._pools.compute, self._findings.close)
        await self._step(steps.COMMIT, {})
        await in_thread(self._pools.compute, self._publish_shards, shards)
        report = {
            "counts": self._counts(scanned),
            "records": {str(shard): records for shard, records in scanned.records.items()},
            "findings": self._findings.name,
            "epoch": self._state.epoch,
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
