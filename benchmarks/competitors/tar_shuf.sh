#!/bin/sh
# tar_shuf.sh SOURCE TARGET SCRATCH RECORDS: extract every shard, shuffle the records, pack RECORDS of them per shard.
# Record keys must be unique in all shards, without tabs or line breaks.
set -eu
source=$1 target=$2 scratch=$3 records=$4
export LC_ALL=C
mkdir -p "$target" "$scratch/members"
for shard in "$source"/*.tar; do
    tar -xf "$shard" -C "$scratch/members"
done
# One line per record, its members parted by tabs; then as many lines per shard as asked for.
find "$scratch/members" -type f -printf '%P\n' | sort |
    awk '{ key = $0; sub(/\..*/, "", key)
           if (key == last) line = line "\t" $0; else { if (NR > 1) print line; line = $0 }
           last = key }
         END { if (NR) print line }' |
    shuf | split -l "$records" -d -a 6 - "$scratch/list-"
for list in "$scratch"/list-*; do
    tr '\t' '\n' <"$list" | tar -cf "$target/out-${list##*-}.tar" -C "$scratch/members" --no-recursion -T -
done
