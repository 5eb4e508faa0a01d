#!/bin/sh
# Takes back what prolog.sh wrote of a job, on whichever GPUs, and keeps its record for an hour
# in `ended`, with the end: an agent that looks every 10 s sees a job of 3 s there.  Always
# ends with 0.
set -u
umask 022

folder=${PETAWATCH_JOBS:-/run/petawatch/jobs}
job=${SLURM_JOB_ID:-}

say() {
    logger -t petawatch-epilog -- "$1" 2>/dev/null || echo "petawatch-epilog: $1" >&2
}

case $job in
    '' | *[!0-9]*)
        say "no job: SLURM_JOB_ID is '$job'"
        exit 0
        ;;
esac
[ -d "$folder" ] || exit 0

record=$folder/job-$job.json
ended=$folder/ended
kept=$ended/job-$job-$(date +%s).json
fresh=$ended/.job-$job.$$

# The record, with the end behind the rest; nothing where that cannot be written.
keep() {
    [ -f "$record" ] && mkdir -p -- "$ended" || return 0
    sed "\$ s/}\$/,\"end\":\"$(date -u +%Y-%m-%dT%H:%M:%SZ)\"}/" "$record" >"$fresh" && return 0
    rm -f -- "$fresh"
    say "job $job: $kept cannot be written"
}

keep
rm -f -- "$record" || say "job $job: $record cannot be removed"

# Takes the job's line out of one GPU's file; the last line takes the file with it.
take_out() {
    grep -qxF -- "$job" "$1" 2>/dev/null || return 0
    fresh=$folder/.$(basename -- "$1").$$
    if grep -vxF -- "$job" "$1" >"$fresh"; then
        mv -f -- "$fresh" "$1"
    else
        rm -f -- "$fresh" "$1"
    fi
}

(
    flock -w 5 9 || say "job $job: no lock on $folder, going on without"
    for file in "$folder"/[0-9]*; do
        case $(basename -- "$file") in
            *[!0-9.]*) ;;
            *) take_out "$file" || say "job $job: $file cannot be written" ;;
        esac
    done
) 9>>"$folder/.lock" || say "job $job: $folder cannot be written"

# Only now, so that nobody finds the job both at work and at its end.
[ ! -f "$fresh" ] || mv -f -- "$fresh" "$kept" || say "job $job: $kept cannot be written"
[ ! -d "$ended" ] || find "$ended" -type f -mmin +60 -delete 2>/dev/null
exit 0
