#!/bin/sh
# Takes back what prolog.sh wrote of a job, on whichever GPUs.  Always ends with 0.
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

rm -f -- "$folder/job-$job.json" || say "job $job: $folder/job-$job.json cannot be removed"

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
exit 0
