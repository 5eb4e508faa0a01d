/* A library with NVML's names and a truth that tests write while it is in use.
 *
 * The file named by FAKE_NVML_STATE is read again whenever it has changed
 * (replace it by a rename).  Lines of words; before the first `gpu` they are about
 * the driver as a whole:
 *   driver VERSION | init CODE        init: what every call then returns, if not 0
 *   still                             the file will not change: it is not looked at again
 *   now_us N | clock PATH             the time; else the monotonic clock.  PATH holds it in
 *                                     its first eight bytes, so that it moves without the file
 *   zero_us N                         the time of second 0 of the timeline (0)
 *   gpu                               begins the next GPU:
 *   bus DOMAIN BUS DEVICE (hex) | pci ID (hex) | uuid U | name N… | serial S
 *   set KEY NUMBER        an answer; what no line states is NOT_SUPPORTED.  Keys: the third
 *                         word of each NUMBER(…) below, and
 *                         integrate 1      energy, fields 83, 185 and 186 follow power_mw
 *                         energy_wrap_bits cycles_wrap_bits   where counters begin again
 *                         cycles 1|2       248–260 are means over SMs | sums over `sms`;
 *                         cycles_difference 1   they are given as differences, not totals
 *                         cycles_base N    what they stood at in second 0
 *                         mig mig_pending max_mig stale_code used@GI cc_major cc_minor
 *                         clock_samples N  µs between buffered clock samples (at most 120)
 *                         process_bytes 32 the longer struct of R530's drivers
 *                         threshold_K violation_P nvlinks nvlink_errors_L events MASK
 *   field ID TYPE VALUE [SCOPE]   NVML_VALUE_TYPE_…; scope 0 also serves scope 2^32-1
 *   field_error ID CODE [SCOPE]   0: no longer
 *   fail CALL CODE        that call returns CODE for this GPU ("all" for every call)
 *   slow CALL µS          it takes so long | hang CALL SECONDS: as slow; both end when the
 *                         truth no longer says so, and hold up nobody else
 *   gpm METRIC RATIO      a level (percent ones as 0–1, others in MiB/s); METRIC@GI is that
 *                         of a GPU instance; a parent without one has its instances' mean by SMs
 *   gpm_us METRIC N       its integral so far, in µs at full activity, instead of the level
 *   reset 0               energy and cycles begin again at 0
 *   at SECOND LINE        from that second on: set, field, field_error, fail, slow, hang, gpm,
 *                         gpm_us, reset.  Energy, GPM windows and cycles are exact integrals.
 *   instance INDEX GI CI UUID PROFILE SMS MEMORY_MB SLICES [FROM_S [TO_S]]
 *   process PID BYTES SM_PERCENT [GI CI [FROM_S [TO_S]]]     -1: not known, none
 *   event SECOND TYPE DATA [GI CI]       once to each set that has asked for the type by then
 *
 * To be asked by tests: fakeCalls(NAME), fakeLiveSamples(), fakeLiveSets(), fakeOpen(),
 * fakeErrorStrings().  A name is left out with -DNAME=OTHER: a driver may lack a function.
 */
#define _GNU_SOURCE
#include "fake_nvml_state.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define UNKNOWN_32 0xFFFFFFFFu
/* ENTER for calls that serve instances too, WHOLE for those that instances lack. */
#define ENTER(handle) static unsigned long *calls; target t; int c = fake_enter(handle, __func__, 0, &t, &calls)
#define WHOLE(handle) static unsigned long *calls; target t; int c = fake_enter(handle, __func__, 1, &t, &calls)
#define LEAVE return fake_leave(c)

static int known(const gpu *g, const char *key, double *out) {
    const step *found = fake_find(g, key);
    if (found) *out = found->number;
    return found ? 0 : 3;
}
static int divided(const gpu *g) { return fake_value(g, "mig", 0) != 0; }

static double wrapped(const gpu *g, const char *bits, double value) {
    double size = fake_value(g, bits, 0);
    return size ? fmod(value, ldexp(1, (int)size)) : value;
}

/* Energy by the timeline's power, from the last reset on; the base is what it began with. */
static double energy_mj(const gpu *g) {
    double now = fake_now_us(), since = fake_reset_us(g, now);
    double base = since > fake_reset_us(g, -INFINITY) ? 0 : fake_value(g, "energy_mj", 0);
    return wrapped(g, "energy_wrap_bits", floor(base + fake_product(g, "power_mw", NULL, since, now) / 1e6));
}

#define NUMBER(call, key, type) \
    int call(void *handle, type *out) { WHOLE(handle); double v; if (!c) c = known(t.g, key, &v); if (!c) *out = (type)v; LEAVE; }
#define PAIR(call, key, other, type) \
    int call(void *handle, type *one, type *two) { WHOLE(handle); double a, b; if (!c) c = known(t.g, key, &a); if (!c) c = known(t.g, other, &b); \
        if (!c) { *one = (type)a; *two = (type)b; } LEAVE; }
#define TEXT(call, whole, part_text) \
    int call(void *handle, char *out, unsigned size) { ENTER(handle); char whole_part[192]; (void)whole_part; \
        const char *found = c ? "" : t.part ? part_text : t.g->whole; \
        if (!c) c = !found[0] ? 3 : strlen(found) >= size ? 7 : 0; \
        if (!c) strcpy(out, found); \
        LEAVE; }

int nvmlInitWithFlags(unsigned flags) { (void)flags; return fake_initialise(); }
int nvmlInit_v2(void) { return fake_initialise(); }
int nvmlShutdown(void) { return fake_shutdown(); }
static int error_strings;
const char *nvmlErrorString(int code) { (void)code; error_strings++; return "asked the driver"; }
int fakeErrorStrings(void) { return error_strings; }
int nvmlSystemGetDriverVersion(char *out, unsigned size) { ENTER(NULL); if (!c) snprintf(out, size, "%s", fake_driver); LEAVE; }
int nvmlSystemGetNVMLVersion(char *out, unsigned size) { ENTER(NULL); if (!c) snprintf(out, size, "13.%s", fake_driver); LEAVE; }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { ENTER(NULL); if (!c) *out = 13000; LEAVE; }
int nvmlDeviceGetCount_v2(unsigned *out) { ENTER(NULL); if (!c) *out = fake_count; LEAVE; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) {
    *out = fake_handle((int)index, -1); ENTER(*out); LEAVE;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **out) {
    ENTER(NULL); int found = c ? c : 6;
    for (int i = 0; !c && i < fake_count; i++) if (!strcmp(fake_gpus[i].uuid, uuid)) { *out = fake_handle(i, -1); found = 0; }
    return fake_leave(found);
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **out) {
    ENTER(NULL); int found = c ? c : 6; unsigned d, b, e;
    if (!c && sscanf(bus, "%x:%x:%x", &d, &b, &e) != 3) found = 2;
    for (int i = 0; found == 6 && i < fake_count; i++) {
        gpu *g = &fake_gpus[i];
        if (g->domain == d && g->bus == b && g->device == e) { *out = fake_handle(i, -1); found = 0; }
    }
    return fake_leave(found);
}

typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char text[32]; } pci;
int nvmlDeviceGetPciInfo_v3(void *handle, pci *out) {
    WHOLE(handle);
    if (!c) {
        out->domain = t.g->domain; out->bus = t.g->bus; out->device = t.g->device; out->id = t.g->pci_id; out->subsystem = 0;
        snprintf(out->text, sizeof out->text, "%08X:%02X:%02X.0", out->domain, out->bus, out->device);
        snprintf(out->legacy, sizeof out->legacy, "%04X:%02X:%02X.0", out->domain & 0xffff, out->bus & 0xff, out->device & 0xff);
    }
    LEAVE;
}
static const char *part_name(target *t, char *room) { snprintf(room, 192, "%s MIG %s", t->g->name, t->part->profile); return room; }
TEXT(nvmlDeviceGetUUID, uuid, t.part->uuid)
TEXT(nvmlDeviceGetName, name, part_name(&t, whole_part))
TEXT(nvmlDeviceGetSerial, serial, "")
int nvmlDeviceGetIndex(void *handle, unsigned *out) { WHOLE(handle); if (!c) *out = (unsigned)t.index; LEAVE; }
NUMBER(nvmlDeviceGetMinorNumber, "minor", unsigned)
NUMBER(nvmlDeviceGetArchitecture, "architecture", unsigned)
NUMBER(nvmlDeviceGetNumGpuCores, "cores", unsigned)
NUMBER(nvmlDeviceGetPersistenceMode, "persistence", int)
NUMBER(nvmlDeviceGetPowerUsage, "power_mw", unsigned)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, "limit_mw", unsigned)
NUMBER(nvmlDeviceGetPowerManagementLimit, "limit_mw", unsigned)
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, "limit_default_mw", unsigned)
NUMBER(nvmlDeviceGetPerformanceState, "pstate", int)
NUMBER(nvmlDeviceGetFanSpeed, "fan", unsigned)
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, "reasons", unsigned long long)
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, "reasons", unsigned long long)
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, "pcie_generation", unsigned)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, "pcie_width", unsigned)
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, "pcie_generation_max", unsigned)
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, "pcie_width_max", unsigned)
PAIR(nvmlDeviceGetCudaComputeCapability, "cc_major", "cc_minor", int)
PAIR(nvmlDeviceGetPowerManagementLimitConstraints, "limit_min_mw", "limit_max_mw", unsigned)
PAIR(nvmlDeviceGetEccMode, "ecc_mode", "ecc_mode", int)
PAIR(nvmlDeviceGetMigMode, "mig", "mig_pending", unsigned)

int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *out) {
    WHOLE(handle); double v;
    if (!c) c = known(t.g, "energy_mj", &v);
    if (!c) *out = (unsigned long long)(fake_value(t.g, "integrate", 0) ? energy_mj(t.g) : v);
    LEAVE;
}
int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *out) {
    WHOLE(handle); double v;
    if (!c) c = sensor ? 2 : known(t.g, "temperature", &v);
    if (!c) *out = (unsigned)v;
    LEAVE;
}
static int numbered(const gpu *g, const char *what, unsigned number, double *out) {
    char key[48];
    snprintf(key, sizeof key, "%s_%u", what, number);
    return known(g, key, out);
}
int nvmlDeviceGetTemperatureThreshold(void *handle, int kind, unsigned *out) {
    WHOLE(handle); double v;
    if (!c) c = numbered(t.g, "threshold", (unsigned)kind, &v);
    if (!c) *out = (unsigned)v;
    LEAVE;
}
typedef struct { unsigned version; int margin; } margin;
int nvmlDeviceGetMarginTemperature(void *handle, margin *out) {
    WHOLE(handle); double v;
    if (!c) c = out->version != 0x01000008 ? 25 : known(t.g, "margin", &v);
    if (!c) out->margin = (int)v;
    LEAVE;
}
int nvmlDeviceGetClockInfo(void *handle, int clock, unsigned *out) {
    WHOLE(handle); double v;
    if (!c) c = known(t.g, clock == 1 ? "sm_clock" : "memory_clock", &v);
    if (!c) *out = (unsigned)v;
    LEAVE;
}
int nvmlDeviceGetMaxClockInfo(void *handle, int clock, unsigned *out) {
    WHOLE(handle); double v;
    if (!c) c = known(t.g, clock == 1 ? "sm_clock_max" : "memory_clock_max", &v);
    if (!c) *out = (unsigned)v;
    LEAVE;
}
typedef struct { unsigned gpu, memory; } rates;
int nvmlDeviceGetUtilizationRates(void *handle, rates *out) {
    WHOLE(handle); double a, b;
    if (!c) c = divided(t.g) ? 3 : known(t.g, "gpu_util", &a);
    if (!c) c = known(t.g, "memory_util", &b);
    if (!c) { out->gpu = (unsigned)a; out->memory = (unsigned)b; }
    LEAVE;
}
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory;
int nvmlDeviceGetMemoryInfo_v2(void *handle, memory *out) {
    ENTER(handle); double used, total; char key[32] = "used";
    if (!c && out->version != 0x02000028) c = 25;
    if (!c && t.part) snprintf(key, sizeof key, "used@%d", t.part->gi);
    if (!c) c = known(t.g, key, &used);
    if (!c && t.part) total = (double)t.part->memory_mb * 1048576; else if (!c) c = known(t.g, "total", &total);
    if (!c) { out->used = (unsigned long long)used; out->total = (unsigned long long)total; out->reserved = 0; out->free = out->total - out->used; }
    LEAVE;
}
int nvmlDeviceGetTotalEccErrors(void *handle, int kind, int counter, unsigned long long *out) {
    WHOLE(handle); double v;
    if (!c) c = counter ? 2 : known(t.g, kind ? "ecc_uncorrected" : "ecc_corrected", &v);
    if (!c) *out = (unsigned long long)v;
    LEAVE;
}
int nvmlDeviceGetRemappedRows(void *handle, unsigned *fixed, unsigned *lost, unsigned *pending, unsigned *failure) {
    WHOLE(handle); double v[4]; static const char *const keys[] = {"remap_corrected", "remap_uncorrected", "remap_pending", "remap_failure"};
    if (!c && divided(t.g)) c = 3;
    for (int i = 0; !c && i < 4; i++) c = known(t.g, keys[i], &v[i]);
    if (!c) { *fixed = (unsigned)v[0]; *lost = (unsigned)v[1]; *pending = (unsigned)v[2]; *failure = (unsigned)v[3]; }
    LEAVE;
}
typedef struct { unsigned long long reference, violation; } violation;
int nvmlDeviceGetViolationStatus(void *handle, int policy, violation *out) {
    WHOLE(handle); double v;
    if (!c) c = numbered(t.g, "violation", (unsigned)policy, &v);
    if (!c) { out->reference = (unsigned long long)(fake_now_us() * 1e3); out->violation = (unsigned long long)v; }
    LEAVE;
}
int nvmlDeviceGetPcieThroughput(void *handle, int counter, unsigned *out) {
    WHOLE(handle); struct timespec window = {0, 20 * 1000 * 1000};
    (void)counter;
    fake_leave(0); nanosleep(&window, NULL); /* as the real one: it measures while it is called */
    if (!c) *out = 1000;
    return c;
}
int nvmlDeviceGetNvLinkState(void *handle, unsigned link, unsigned *out) {
    WHOLE(handle); double v;
    if (!c) c = divided(t.g) ? 3 : known(t.g, "nvlinks", &v);
    if (!c && link >= v) c = 2;
    if (!c) *out = 1;
    LEAVE;
}
int nvmlDeviceGetNvLinkErrorCounter(void *handle, unsigned link, int counter, unsigned long long *out) {
    WHOLE(handle); double v;
    (void)counter;
    if (!c) c = divided(t.g) ? 3 : numbered(t.g, "nvlink_errors", link, &v);
    if (!c) *out = (unsigned long long)v;
    LEAVE;
}

typedef union { double d; unsigned ui; unsigned long ul; unsigned long long ull; long long sll; int si; unsigned short us; } value;
typedef struct { unsigned field, scope; long long stamp, latency; int type, code; value value; } field;

static void put(value *out, int type, double number) {
    switch (type) {
        case 0: out->d = number; break;
        case 1: out->ui = (unsigned)(long long)number; break;
        case 2: out->ul = (unsigned long)number; break;
        case 3: out->ull = number >= 18446744073709551615.0 ? ~0ULL : (unsigned long long)number; break;
        case 4: out->sll = (long long)number; break;
        case 5: out->si = (int)number; break;
        default: out->us = (unsigned short)number;
    }
}
/* What power, its mean over a second and energy are where the timeline says what they follow. */
static double followed(const gpu *g, unsigned id, double stated) {
    double now = fake_now_us();
    if (id == 83) return energy_mj(g);
    if (id == 186) return fake_value(g, "power_mw", 0);
    return id == 185 ? fake_product(g, "power_mw", NULL, now - 1e6, now) / 1e6 : stated;
}
int nvmlDeviceGetFieldValues(void *handle, int count, field *out) {
    WHOLE(handle); char key[32]; int dark = !c && divided(t.g), follows = !c && fake_value(t.g, "integrate", 0);
    for (int i = 0; !c && i < count; i++) {
        unsigned id = out[i].field, scope = out[i].scope;
        if (scope) snprintf(key, sizeof key, "f%u.%u", id, scope);
        const step *one = scope ? fake_find(t.g, key) : NULL;
        if (!one && id < FIELDS && (!scope || scope == UNKNOWN_32)) one = fake_find_at(t.g, t.g->field_at[id]);
        out[i].stamp = (long long)fake_now_us(); out[i].latency = 1;
        out[i].code = !one || (dark && id >= 138 && id <= 145) ? 3 : 0;
        if (t.g->has_kind[3]) {
            snprintf(key, sizeof key, scope && scope != UNKNOWN_32 ? "e%u.%u" : "e%u", id, scope);
            int failing = (int)fake_value(t.g, key, 0);
            if (failing) out[i].code = failing;
        }
        if (out[i].code) continue;
        out[i].type = one->type;
        put(&out[i].value, one->type, scope || !follows ? one->number : followed(t.g, id, one->number));
    }
    LEAVE;
}

typedef struct { unsigned long long stamp; value value; } clock_sample;
int nvmlDeviceGetSamples(void *handle, int kind, unsigned long long seen, int *type, unsigned *count, clock_sample *out) {
    WHOLE(handle); double every = 0, now = fake_now_us();
    const char *key = kind == 5 ? "sm_clock" : kind == 6 ? "memory_clock" : kind == 0 ? "power_mw" : NULL;
    if (!c) c = key ? known(t.g, "clock_samples", &every) : 3;
    if (!c && !out) *count = 120;
    if (!c && out) {
        unsigned n = 0; double last = floor(now / every) * every, at = last - 119 * every;
        if (at <= (double)seen) at = floor((double)seen / every) * every + every;
        for (; at <= last && n < *count; at += every, n++) {
            out[n].stamp = (unsigned long long)at;
            out[n].value.ull = 0;
            double before = fake_product(t.g, key, NULL, at - 1, at); /* the level at that moment */
            out[n].value.ui = (unsigned)(before + 0.5);
        }
        *count = n; *type = 1; c = n ? 0 : 6;
    }
    LEAVE;
}

/* One of the longer structs has four more words than the other. */
static void put_process(char *at, int bytes, const process *one, int parts) {
    unsigned long long used = one->memory < 0 ? ~0ULL : (unsigned long long)one->memory;
    unsigned ids[2] = {parts ? one->gi : UNKNOWN_32, parts ? one->ci : UNKNOWN_32};
    memset(at, 0, (size_t)bytes);
    memcpy(at, &one->pid, 4); memcpy(at + 8, &used, 8); memcpy(at + 16, ids, 8);
}
static int running(const target *t, const process *one) {
    double now = fake_now_us();
    return one->from_us <= now && now < one->to_us && (!t->part || one->gi == (unsigned)t->part->gi);
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, char *out) {
    ENTER(handle); unsigned n = 0, room = *count;
    int bytes = c ? 24 : (int)fake_value(t.g, "process_bytes", 24);
    for (int i = 0; !c && i < t.g->n_processes; i++) {
        if (!running(&t, &t.g->processes[i])) continue;
        if (out && n < room) put_process(out + n * (unsigned)bytes, bytes, &t.g->processes[i], divided(t.g));
        n++;
    }
    if (!c) { *count = n; c = n && (!out || n > room) ? 7 : 0; }
    LEAVE;
}
int nvmlDeviceGetRunningProcessDetailList(void *handle, void *out) { WHOLE(handle); (void)out; if (!c) c = 3; LEAVE; }
int nvmlDeviceGetConfComputeMemSizeInfo(void *handle, void *out) { WHOLE(handle); (void)out; if (!c) c = 3; LEAVE; }

typedef struct { unsigned pid; unsigned long long stamp; unsigned sm, memory, encoder, decoder; } use;
int nvmlDeviceGetProcessUtilization(void *handle, use *out, unsigned *count, unsigned long long seen) {
    WHOLE(handle); unsigned n = 0, room = *count;
    unsigned long long stamp = (unsigned long long)(floor(fake_now_us() / 1e6) * 1e6);
    if (!c && divided(t.g)) c = 3;
    for (int i = 0; !c && stamp > seen && i < t.g->n_processes; i++) {
        process *one = &t.g->processes[i];
        if (!running(&t, one) || one->sm_util < 0) continue;
        if (out && n < room) out[n] = (use){one->pid, stamp, (unsigned)one->sm_util, 0, 0, 0};
        n++;
    }
    if (!c) { *count = n; c = n && (!out || n > room) ? 7 : 0; } /* sizing "none" succeeds, as the real one does */
    LEAVE;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *out) { WHOLE(handle); double v; if (!c) c = known(t.g, "mig", &v); if (!c) *out = (unsigned)fake_value(t.g, "max_mig", 7); LEAVE; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **out) {
    WHOLE(handle);
    if (!c && !divided(t.g)) c = 3;
    if (!c && !fake_part(t.g, 0, (int)index)) c = index % 2 ? 2 : 6; /* both are seen for gaps */
    if (!c) *out = fake_handle(t.index, (int)index);
    LEAVE;
}
int nvmlDeviceIsMigDeviceHandle(void *handle, unsigned *out) { ENTER(handle); if (!c) *out = t.part != NULL; LEAVE; }
int nvmlDeviceGetGpuInstanceId(void *handle, unsigned *out) { ENTER(handle); if (!c && !t.part) c = 3; if (!c) *out = (unsigned)t.part->gi; LEAVE; }
int nvmlDeviceGetComputeInstanceId(void *handle, unsigned *out) { ENTER(handle); if (!c && !t.part) c = 3; if (!c) *out = (unsigned)t.part->ci; LEAVE; }
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *handle, void **out) { ENTER(handle); if (!c && !t.part) c = 3; if (!c) *out = fake_handle(t.index, -1); LEAVE; }
typedef struct { unsigned sms, shared[5], gpu_slices, compute_slices; unsigned long long memory_mb; } attributes;
int nvmlDeviceGetAttributes_v2(void *handle, attributes *out) {
    ENTER(handle);
    if (!c && !t.part) c = 3;
    if (!c) *out = (attributes){(unsigned)t.part->sms, {1, 0, 0, 0, 0}, t.part->slices, t.part->slices, t.part->memory_mb};
    LEAVE;
}
