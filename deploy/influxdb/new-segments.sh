#!/bin/sh
# Before every start of InfluxDB 2.x: new-segments.sh WAL_FOLDER [COMMAND…]
#
# What a crash cuts off in the middle of a write-ahead log's last segment, InfluxDB (2.9.1) cuts
# away at its start, but goes on writing where the segment ended before. The hole in between counts
# as the log's end at the next crash: all that was acknowledged meanwhile is lost then. An empty
# segment after the last one makes it begin a new segment instead, and nothing is lost.
# InfluxDB must not run. COMMAND is executed afterwards, if there is one.
set -eu

wal=$1
shift
for shard in "$wal"/*/*/*/; do
    last=
    for segment in "$shard"_*.wal; do
        last=$segment
    done
    # No segment at all, or an empty one already.
    [ -s "$last" ] || continue
    number=${last##*/_}
    number=$(echo "${number%.wal}" | sed 's/^0*//')
    next=$(printf '%s_%05d.wal' "$shard" $((number + 1)))
    : >"$next"
    # InfluxDB removes it, so it must be allowed to, whoever runs this.
    chown "$(stat -c %u:%g "$last")" "$next" 2>/dev/null || true
done
[ $# -eq 0 ] || exec "$@"
