"""The threads of a rank, each pool for one kind of work and bounded, so that none waits behind another.

compute: scan, sort, plan (one at a time). serve: reads for peers. fill: reads into windows. flush: writes windows, in order.
close: flushes shards to disk. decide: rank 0's decisions.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor


class Pools:
    """Thread pools from start to `close_all`."""

    def __init__(self, *, windows: int) -> None:
        self.compute = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self.serve = ThreadPoolExecutor(2, thread_name_prefix="serve")
        self.fill = ThreadPoolExecutor(windows, thread_name_prefix="fill")
        self.flush = ThreadPoolExecutor(1, thread_name_prefix="flush")
        self.close = ThreadPoolExecutor(4, thread_name_prefix="close")
        self.decide = ThreadPoolExecutor(1, thread_name_prefix="decide")

    def close_all(self) -> None:
        """Wait for what is in progress and end all threads."""
        for pool in (self.compute, self.serve, self.fill, self.flush, self.close, self.decide):
            pool.shutdown(wait=True, cancel_futures=True)
