"""tarfile_script.py SOURCE TARGET RECORDS: shuffle tar shards with the standard library, in one process.

The script that one writes in an afternoon: index all members with tarfile, shuffle the records, copy them one by one.
"""

import os
import random
import sys
import tarfile


def main(source: str, target: str, per_shard: int) -> None:
    """Index, shuffle, copy."""
    os.makedirs(target)
    shards = [tarfile.open(os.path.join(source, name)) for name in sorted(os.listdir(source))]  # noqa: SIM115
    records: dict[tuple[int, str], list[tarfile.TarInfo]] = {}
    for number, shard in enumerate(shards):
        for member in shard:
            records.setdefault((number, member.name.split(".", 1)[0]), []).append(member)
    order = list(records)
    random.Random(0).shuffle(order)
    for start in range(0, len(order), per_shard):
        with tarfile.open(os.path.join(target, f"out-{start // per_shard:06d}.tar"), "w") as output:
            for key in order[start : start + per_shard]:
                for member in records[key]:
                    output.addfile(member, shards[key[0]].extractfile(member))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
