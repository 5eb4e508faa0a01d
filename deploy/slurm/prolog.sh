#!/bin/sh
# Writes down which GPUs a job has, for petawatch's agent and for DCGM exporter's
# --hpc-job-mapping-dir.  In slurm.conf:
#
#   Prolog=/etc/petawatch/slurm/prolog.sh
#   Epilog=/etc/petawatch/slurm/epilog.sh
#   PrologFlags=Alloc,Contain
#
# Alloc runs it when the GPUs are given away and not at the first step.  Contain
# gives each job a cgroup for its whole life, by which a file that an epilog left
# behind is known.  A site's own prolog may call this one.
#
# PETAWATCH_JOBS names the folder, /run/petawatch/jobs where it is not set.
#
# It always ends with 0: whatever is wrong here must neither fail a job nor drain a node.
set -u
umask 022

folder=${PETAWATCH_JOBS:-/run/petawatch/jobs}
job=${SLURM_JOB_ID:-}

say() {
    logger -t petawatch-prolog -- "$1" 2>/dev/null || echo "petawatch-prolog: $1" >&2
}

# One JSON string.  Names of users and accounts have no control characters.
text() {
    printf '"%s"' "$(printf '%s' "$1" | tr -d '\000-\037' | sed 's/[\\"]/\\&/g')"
}

case $job in
    '' | *[!0-9]*)
        say "no job: SLURM_JOB_ID is '$job'"
        exit 0
        ;;
esac

# Both are the node's own numbers here.  MIG instances are told by UUID in the second alone.
visible=${CUDA_VISIBLE_DEVICES:-}
case $visible in
    *MIG-*) gpus=$visible ;;
    *) gpus=${SLURM_JOB_GPUS:-$visible} ;;
esac
case $gpus in
    '' | NoDevFiles | -1) exit 0 ;; # a job without GPUs
esac

# Whether other jobs may have the GPU at the same time.  Slurm 22.05 tells a prolog nothing of
# shards, so it is known to be not shared only where the cluster has neither shards nor MPS.
shared=null
if [ -n "${SLURM_SHARDS_ON_NODE:-}" ] || [ -n "${CUDA_MPS_ACTIVE_THREAD_PERCENTAGE:-}" ]; then
    shared=true
else
    types=$(grep -ihE '^[[:space:]]*GresTypes[[:space:]]*=' "${SLURM_CONF:-/etc/slurm/slurm.conf}" 2>/dev/null)
    case $types in
        '' | *[Ss][Hh][Aa][Rr][Dd]* | *[Mm][Pp][Ss]*) ;;
        *) shared=false ;;
    esac
fi

start=$(date -u -d "@${SLURM_JOB_START_TIME:-}" +%Y-%m-%dT%H:%M:%SZ 2>/dev/null) ||
    start=$(date -u +%Y-%m-%dT%H:%M:%SZ)
boot=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)

if ! mkdir -p -- "$folder"; then
    say "job $job: $folder cannot be made"
    exit 0
fi

numbers='' # for the exporter's form
json_gpus=''
json_migs=''
old_ifs=$IFS
IFS=,
set -f # no file name is meant
for gpu in $gpus; do
    case $gpu in
        '') ;;
        MIG-*) json_migs="$json_migs${json_migs:+,}$(text "$gpu")" ;;
        *[!0-9]*) json_gpus="$json_gpus${json_gpus:+,}$(text "$gpu")" ;;
        *)
            json_gpus="$json_gpus${json_gpus:+,}$gpu"
            numbers="$numbers${numbers:+,}$gpu"
            ;;
    esac
done

# Ours: one file per job, complete from the moment at which it has its name.
fresh=$folder/.job-$job.$$
write_record() {
    printf '{"job":"%s"' "$job"
    [ -z "$json_gpus" ] || printf ',"gpu":[%s]' "$json_gpus"
    [ -z "$json_migs" ] || printf ',"mig":[%s]' "$json_migs"
    [ -z "${SLURM_JOB_SLUID:-}" ] || printf ',"sluid":%s' "$(text "$SLURM_JOB_SLUID")"
    [ -z "${SLURM_JOB_USER:-}" ] || printf ',"user":%s' "$(text "$SLURM_JOB_USER")"
    [ -z "${SLURM_JOB_ACCOUNT:-}" ] || printf ',"account":%s' "$(text "$SLURM_JOB_ACCOUNT")"
    [ -z "$boot" ] || printf ',"boot":"%s"' "$boot"
    printf ',"start":"%s","shared":%s}\n' "$start" "$shared"
}
if ! write_record >"$fresh" || ! mv -f -- "$fresh" "$folder/job-$job.json"; then
    rm -f -- "$fresh"
    say "job $job: $folder/job-$job.json cannot be written"
fi

# The exporter's: one file per GPU, a job per line.
for gpu in $numbers; do
    (
        flock -w 5 9 || say "job $job: no lock on $folder, going on without"
        grep -qxF -- "$job" "$folder/$gpu" 2>/dev/null || printf '%s\n' "$job" >>"$folder/$gpu"
    ) 9>>"$folder/.lock" || say "job $job: $folder/$gpu cannot be written"
done
IFS=$old_ifs
exit 0
