"""webdataset_script.py SOURCE TARGET RECORDS: reshard with the webdataset library, as its documentation does it.

Shards in random order through a shuffle buffer into a ShardWriter. It is an approximate shuffle: a record does not leave
the neighbourhood of its shard by more than the buffer.
"""

import glob
import os
import random
import sys

import webdataset as wds

BUFFER = 10_000


def main(source: str, target: str, per_shard: int) -> None:
    """Read, shuffle in the buffer, write."""
    os.makedirs(target)
    shards = sorted(glob.glob(f"{source}/*.tar"))
    random.Random(0).shuffle(shards)
    records = wds.WebDataset(shards, shardshuffle=False, empty_check=False).shuffle(BUFFER)
    with wds.ShardWriter(f"{target}/out-%06d.tar", maxcount=per_shard, maxsize=1e12, verbose=0) as sink:
        for record in records:
            sink.write({name: value for name, value in record.items() if name == "__key__" or name[0] != "_"})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
