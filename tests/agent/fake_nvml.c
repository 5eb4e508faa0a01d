/* A library with NVML's names and a truth that tests write while it is in use.
 *
 * The file named by FAKE_NVML_STATE is read again whenever it has changed
 * (replace it by a rename).  Lines of words:
 *   driver VERSION | init CODE | now_us N       (now_us: the clock of GPM samples;
 *                                               without it, the monotonic clock)
 *   gpu                                         begins the next GPU:
 *   bus DOMAIN BUS DEVICE (hex) | uuid U | name N… | serial S
 *   set KEY INTEGER       answers of calls: power_mw, energy_mj, temperature,
 *                         margin, sm_clock, memory_clock, gpu_util, memory_util, used,
 *                         total, limit_mw, pstate, ecc_corrected, ecc_uncorrected, gpm (0|1)
 *   field ID TYPE VALUE   NVML_VALUE_TYPE_…; others are NOT_SUPPORTED
 *   field_error ID CODE
 *   fail CALL CODE        that call returns CODE for this GPU ("all" for every call)
 *   gpm METRIC RATIO      constant since time 0, or with now_us:
 *   gpm_us METRIC N       the integral so far, in µs at full activity
 * nvmlDeviceGetFanSpeed is left out on purpose: a driver may lack a function.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define GPUS 16
#define ITEMS 64
#define METRICS_AT_MOST 98 /* the array's length in a driver older than the bindings */

typedef struct { char key[64]; double number; int code; int type; } item;
typedef struct {
    unsigned domain, bus, device;
    char uuid[96], name[96], serial[64];
    item sets[ITEMS], fields[ITEMS], fails[ITEMS], ratios[ITEMS], integrals[ITEMS];
    int n_sets, n_fields, n_fails, n_ratios, n_integrals;
} gpu;
typedef struct { double now_us; double full_us[METRICS_AT_MOST]; int used; } sample;

static gpu gpus[GPUS];
static int n_gpus, init_code, up;
static char driver[32];
static double fixed_now_us;
static int has_fixed_now;
static struct stat seen;

static void add(item *list, int *count, const char *key, double number, int type, int code) {
    if (*count >= ITEMS) abort();
    item *one = &list[(*count)++];
    snprintf(one->key, sizeof one->key, "%s", key);
    one->number = number; one->type = type; one->code = code;
}

static item *find(item *list, int count, const char *key) {
    for (int i = 0; i < count; i++) if (!strcmp(list[i].key, key)) return &list[i];
    return NULL;
}

static void line_of(char *line) {
    char word[32], key[64]; double number = 0; int type = 0, code = 0;
    gpu *g = n_gpus ? &gpus[n_gpus - 1] : NULL;
    if (sscanf(line, "%31s", word) != 1) return;
    if (!strcmp(word, "driver")) sscanf(line, "%*s %31s", driver);
    else if (!strcmp(word, "init")) sscanf(line, "%*s %d", &init_code);
    else if (!strcmp(word, "now_us")) { sscanf(line, "%*s %lf", &fixed_now_us); has_fixed_now = 1; }
    else if (!strcmp(word, "gpu")) { if (n_gpus >= GPUS) abort(); memset(&gpus[n_gpus++], 0, sizeof(gpu)); }
    else if (!g) abort();
    else if (!strcmp(word, "bus")) sscanf(line, "%*s %x %x %x", &g->domain, &g->bus, &g->device);
    else if (!strcmp(word, "uuid")) sscanf(line, "%*s %95s", g->uuid);
    else if (!strcmp(word, "name")) sscanf(line, "%*s %95[^\n]", g->name);
    else if (!strcmp(word, "serial")) sscanf(line, "%*s %63s", g->serial);
    else if (!strcmp(word, "set") && sscanf(line, "%*s %63s %lf", key, &number) == 2) add(g->sets, &g->n_sets, key, number, 0, 0);
    else if (!strcmp(word, "field") && sscanf(line, "%*s %63s %d %lf", key, &type, &number) == 3) add(g->fields, &g->n_fields, key, number, type, 0);
    else if (!strcmp(word, "field_error") && sscanf(line, "%*s %63s %d", key, &code) == 2) add(g->fields, &g->n_fields, key, 0, 0, code);
    else if (!strcmp(word, "fail") && sscanf(line, "%*s %63s %d", key, &code) == 2) add(g->fails, &g->n_fails, key, 0, 0, code);
    else if (!strcmp(word, "gpm") && sscanf(line, "%*s %63s %lf", key, &number) == 2) add(g->ratios, &g->n_ratios, key, number, 0, 0);
    else if (!strcmp(word, "gpm_us") && sscanf(line, "%*s %63s %lf", key, &number) == 2) add(g->integrals, &g->n_integrals, key, number, 0, 0);
    else abort();
}

static void load(void) {
    const char *path = getenv("FAKE_NVML_STATE");
    struct stat now; char line[256];
    if (!path || stat(path, &now)) { init_code = 9; n_gpus = 0; return; }
    if (now.st_ino == seen.st_ino && now.st_mtim.tv_sec == seen.st_mtim.tv_sec &&
        now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec && now.st_size == seen.st_size) return;
    FILE *file = fopen(path, "r");
    if (!file) abort();
    seen = now; n_gpus = init_code = has_fixed_now = 0;
    while (fgets(line, sizeof line, file)) line_of(line);
    fclose(file);
}

static int ready(void) { load(); return init_code ? init_code : up ? 0 : 1; }

/* Handles are the GPU's number plus one, so that they outlive a change of the file. */
static int device(void *handle, const char *call, gpu **out) {
    int code = ready();
    long index = (long)handle - 1;
    if (code) return code;
    if (index < 0 || index >= n_gpus) return 15;
    *out = &gpus[index];
    item *all = find((*out)->fails, (*out)->n_fails, "all");
    item *one = find((*out)->fails, (*out)->n_fails, call);
    return all ? all->code : one ? one->code : 0;
}

static int answer(void *handle, const char *call, const char *key, double *out) {
    gpu *g;
    int code = device(handle, call, &g);
    if (code) return code;
    item *set = find(g->sets, g->n_sets, key);
    if (!set) return 3;
    *out = set->number;
    return 0;
}

#define NUMBER(call, key, type) \
    int call(void *handle, type *out) { double v; int c = answer(handle, #call, key, &v); if (!c) *out = (type)v; return c; }
static int text(int code, const char *known, char *out, unsigned size) {
    if (code) return code;
    if (!known[0]) return 3;
    snprintf(out, size, "%s", known);
    return 0;
}
#define TEXT(call, member) \
    int call(void *handle, char *out, unsigned size) { gpu *g = gpus; int c = device(handle, #call, &g); return text(c, g->member, out, size); }

int nvmlInitWithFlags(unsigned flags) { (void)flags; load(); if (!init_code) up = 1; return init_code; }
int nvmlShutdown(void) { up = 0; return 0; }
int nvmlSystemGetDriverVersion(char *out, unsigned size) { int c = ready(); if (!c) snprintf(out, size, "%s", driver); return c; }
int nvmlDeviceGetCount_v2(unsigned *out) { int c = ready(); if (!c) *out = n_gpus; return c; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) { gpu *g; *out = (void *)(long)(index + 1); return device(*out, "nvmlDeviceGetHandleByIndex_v2", &g); }

typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char text[32]; } pci;
int nvmlDeviceGetPciInfo_v3(void *handle, pci *out) {
    gpu *g; int c = device(handle, "nvmlDeviceGetPciInfo_v3", &g);
    if (!c) { out->domain = g->domain; out->bus = g->bus; out->device = g->device; }
    return c;
}
TEXT(nvmlDeviceGetUUID, uuid)
TEXT(nvmlDeviceGetName, name)
TEXT(nvmlDeviceGetSerial, serial)
NUMBER(nvmlDeviceGetPowerUsage, "power_mw", unsigned)
NUMBER(nvmlDeviceGetTotalEnergyConsumption, "energy_mj", unsigned long long)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, "limit_mw", unsigned)
NUMBER(nvmlDeviceGetPerformanceState, "pstate", int)

int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *out) {
    double v; int c = answer(handle, "nvmlDeviceGetTemperature", "temperature", &v);
    if (!c) *out = (unsigned)v;
    return sensor ? 2 : c;
}
typedef struct { unsigned version; int margin; } margin;
int nvmlDeviceGetMarginTemperature(void *handle, margin *out) {
    double v; int c = answer(handle, "nvmlDeviceGetMarginTemperature", "margin", &v);
    if (!c) out->margin = (int)v;
    return c;
}
int nvmlDeviceGetClockInfo(void *handle, int clock, unsigned *out) {
    double v; int c = answer(handle, "nvmlDeviceGetClockInfo", clock == 1 ? "sm_clock" : "memory_clock", &v);
    if (!c) *out = (unsigned)v;
    return c;
}
typedef struct { unsigned gpu, memory; } rates;
int nvmlDeviceGetUtilizationRates(void *handle, rates *out) {
    double a, b; int c = answer(handle, "nvmlDeviceGetUtilizationRates", "gpu_util", &a);
    if (!c) c = answer(handle, "nvmlDeviceGetUtilizationRates", "memory_util", &b);
    if (!c) { out->gpu = (unsigned)a; out->memory = (unsigned)b; }
    return c;
}
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory;
int nvmlDeviceGetMemoryInfo_v2(void *handle, memory *out) {
    double a, b; int c = answer(handle, "nvmlDeviceGetMemoryInfo_v2", "used", &a);
    if (!c) c = answer(handle, "nvmlDeviceGetMemoryInfo_v2", "total", &b);
    if (!c) { out->used = (unsigned long long)a; out->total = (unsigned long long)b; }
    return c;
}
int nvmlDeviceGetTotalEccErrors(void *handle, int kind, int counter, unsigned long long *out) {
    double v; int c = answer(handle, "nvmlDeviceGetTotalEccErrors", kind ? "ecc_uncorrected" : "ecc_corrected", &v);
    if (!c) *out = (unsigned long long)v;
    return counter ? 2 : c;
}

typedef struct {
    unsigned field, scope; long long stamp, latency; int type, code;
    union { double d; unsigned ui; unsigned long ul; unsigned long long ull; long long sll; int si; unsigned short us; } value;
} field;
int nvmlDeviceGetFieldValues(void *handle, int count, field *out) {
    gpu *g; int c = device(handle, "nvmlDeviceGetFieldValues", &g); char key[16];
    if (c) return c;
    for (int i = 0; i < count; i++) {
        snprintf(key, sizeof key, "%u", out[i].field);
        item *one = find(g->fields, g->n_fields, key);
        out[i].code = one ? one->code : 3;
        if (!one || one->code) continue;
        out[i].type = one->type;
        switch (one->type) {
            case 0: out[i].value.d = one->number; break;
            case 1: out[i].value.ui = (unsigned)one->number; break;
            case 2: out[i].value.ul = (unsigned long)one->number; break;
            case 3: out[i].value.ull = (unsigned long long)one->number; break;
            case 4: out[i].value.sll = (long long)one->number; break;
            case 5: out[i].value.si = (int)one->number; break;
            default: out[i].value.us = (unsigned short)one->number;
        }
    }
    return 0;
}

typedef struct { unsigned version, supported; } support;
int nvmlGpmQueryDeviceSupport(void *handle, support *out) {
    double v; int c = answer(handle, "nvmlGpmQueryDeviceSupport", "gpm", &v);
    if (!c) out->supported = (unsigned)v;
    return c;
}
static int live_samples;
int nvmlGpmSampleAlloc(sample **out) { *out = calloc(1, sizeof **out); live_samples++; return *out ? 0 : 20; }
int nvmlGpmSampleFree(sample *one) { free(one); live_samples--; return 0; }
int fakeLiveSamples(void) { return live_samples; }
int nvmlGpmSampleGet(void *handle, sample *out) {
    gpu *g; int c = device(handle, "nvmlGpmSampleGet", &g); struct timespec t; char key[16];
    if (c) return c;
    clock_gettime(CLOCK_MONOTONIC, &t);
    out->now_us = has_fixed_now ? fixed_now_us : t.tv_sec * 1e6 + t.tv_nsec / 1e3;
    for (int m = 0; m < METRICS_AT_MOST; m++) {
        snprintf(key, sizeof key, "%d", m);
        item *whole = find(g->integrals, g->n_integrals, key), *ratio = find(g->ratios, g->n_ratios, key);
        out->full_us[m] = whole ? whole->number : ratio ? ratio->number * out->now_us : -1;
    }
    return 0;
}
typedef struct { unsigned id; int code; double value; char *names[3]; } metric;
typedef struct { unsigned version, count; sample *older, *newer; metric metrics[METRICS_AT_MOST]; } request;
int nvmlGpmMetricsGet(request *r) {
    if (r->version != 1) return 25;
    if (r->count > METRICS_AT_MOST) return 2;
    for (unsigned i = 0; i < r->count; i++) {
        unsigned m = r->metrics[i].id;
        int known = m < METRICS_AT_MOST && r->older->full_us[m] >= 0;
        double elapsed = r->newer->now_us - r->older->now_us;
        r->metrics[i].code = known ? 0 : 3;
        if (known) r->metrics[i].value = 100 * (r->newer->full_us[m] - r->older->full_us[m]) / elapsed;
    }
    return 0;
}
