/* GPM samples and event sets of the fake NVML; see fake_nvml.c. */
#define _GNU_SOURCE
#include "fake_nvml_state.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ENTER(handle, whole) static unsigned long *calls; target t; int c = fake_enter(handle, __func__, whole, &t, &calls)
#define LEAVE return fake_leave(c)
#define CYCLES (CYCLES_LAST - CYCLES_FIRST + 1)

typedef struct { int taken; void *handle; double now_us; double full_us[METRICS_AT_MOST], cycles[CYCLES]; int difference; } sample;
typedef struct { unsigned version, supported; } support;
typedef struct { unsigned id; int code; double value; char *names[3]; } metric;
typedef struct { unsigned version, count; sample *older, *newer; metric metrics[METRICS_AT_MOST]; } request;

/* The percent metric whose cycles each counter counts; 0 for elapsed ones, -1 for none. */
static const int active_metric[CYCLES] = {0, 2, 5, 8, 7, 9, 6, -1, -1, 4, 11, 12, 13};
static int live_samples, live_sets;

int fakeLiveSamples(void) { return live_samples; }
int fakeLiveSets(void) { return live_sets; }

int nvmlGpmQueryDeviceSupport(void *handle, support *out) {
    ENTER(handle, 0);
    const step *gpm = c ? NULL : fake_find(t.g, "gpm");
    if (!c && out->version != 1) c = 25;
    if (!c && !gpm) c = 3;
    if (!c) out->supported = (unsigned)gpm->number;
    LEAVE;
}
int nvmlGpmSampleAlloc(sample **out) {
    ENTER(NULL, 0);
    if (!c && !(*out = calloc(1, sizeof **out))) c = 20;
    if (!c) live_samples++;
    LEAVE;
}
int nvmlGpmSampleFree(sample *one) {
    ENTER(NULL, 0);
    if (one) { free(one); live_samples--; }
    (void)c; /* room is given back even when the driver is gone */
    return fake_leave(0);
}

static void metric_key(char *key, size_t size, const char *kind, int m, int gi) {
    if (gi < 0) snprintf(key, size, "%s.%d", kind, m); else snprintf(key, size, "%s.%d@%d", kind, m, gi);
}

/* Integral of an activity (times the clock, for cycles) since a moment; -1 where none is stated. */
static double level(const gpu *g, int m, int gi, int clock, double from_us, double to_us) {
    char key[48]; int at = g->level_at[m];
    if (gi >= 0) { metric_key(key, sizeof key, "gpm", m, gi); at = fake_first(g, key); }
    return fake_find_at(g, at) ? fake_product_at(g, at, clock, from_us, to_us) : -1;
}
/* A whole GPU's, where it is not stated: the mean of its instances, weighted by SMs of all. */
static double activity(const gpu *g, int m, int gi, int clock, double from_us, double to_us) {
    double own = level(g, m, gi, clock, from_us, to_us), sum = 0; int any = 0;
    if (own >= 0 || gi >= 0) return own;
    for (int i = 0; i < g->n_instances; i++) {
        const instance *one = &g->instances[i];
        double from = fmax(from_us, one->from_us), to = fmin(to_us, one->to_us);
        double part = to >= from ? level(g, m, one->gi, clock, from, to) : -1;
        if (part < 0) continue;
        any = 1; sum += part * one->sms;
    }
    return any ? sum / fake_value(g, "sms", 132) : -1;
}

static void take_cycles(const gpu *g, int gi, double sms, sample *out) {
    double way = fake_value(g, "cycles", 0), since = fake_reset_us(g, out->now_us);
    double base = since > fake_reset_us(g, -INFINITY) ? 0 : fake_value(g, "cycles_base", 0);
    double bits = fake_value(g, "cycles_wrap_bits", 0);
    out->difference = fake_value(g, "cycles_difference", 0) != 0;
    int clock = fake_first(g, "sm_clock");
    for (int i = 0; i < CYCLES; i++) {
        int m = active_metric[i];
        double mhz_us = !way || m < 0 || clock < 0 ? -1 : m ? activity(g, m, gi, clock, since, out->now_us)
                                               : fake_product_at(g, clock, -1, since, out->now_us);
        out->cycles[i] = mhz_us < 0 ? -1 : base + floor(mhz_us * (way == 2 ? sms : 1));
        if (bits && mhz_us >= 0) out->cycles[i] = fmod(out->cycles[i], ldexp(1, (int)bits));
    }
}
static int take(void *handle, const target *t, const instance *part, sample *out) {
    const gpu *g = t->g; int gi = part ? part->gi : -1; char key[48];
    memset(out, 0, sizeof *out);
    out->now_us = fake_now_us(); out->taken = 1; out->handle = handle;
    double zero = fake_reset_us(g, -INFINITY);
    for (int m = 0; m < METRICS_AT_MOST; m++) {
        int at = gi < 0 ? g->whole_at[m] : -1;
        if (gi >= 0) { metric_key(key, sizeof key, "gpm_us", m, gi); at = g->has_metric[m] ? fake_first(g, key) : -1; }
        const step *whole = fake_find_at(g, at);
        out->full_us[m] = !g->has_metric[m] ? -1 : whole ? whole->number : activity(g, m, gi, -1, zero, out->now_us);
    }
    take_cycles(g, gi, part ? part->sms : fake_value(g, "sms", 132), out);
    return 0;
}
int nvmlGpmSampleGet(void *handle, sample *out) {
    ENTER(handle, 0);
    if (!c && !fake_value(t.g, "gpm", 0)) c = 3;
    if (!c) c = take(handle, &t, t.part, out);
    LEAVE;
}
int nvmlGpmMigSampleGet(void *handle, unsigned gi, sample *out) {
    ENTER(handle, 1);
    instance *part = c ? NULL : fake_part(t.g, 1, (int)gi);
    if (!c && !fake_value(t.g, "gpm", 0)) c = 3;
    if (!c && !part) c = 2;
    if (!c) c = take(handle, &t, part, out);
    LEAVE;
}
static void answer(const request *r, metric *out) {
    unsigned m = out->id; int cycle = (int)m - CYCLES_FIRST;
    const sample *older = r->older, *newer = r->newer;
    if (cycle >= 0 && cycle < CYCLES) {
        out->code = older->cycles[cycle] < 0 || newer->cycles[cycle] < 0 ? 3 : 0;
        if (!out->code) out->value = newer->cycles[cycle] - (newer->difference ? older->cycles[cycle] : 0);
        return;
    }
    int known = m < METRICS_AT_MOST && older->full_us[m] >= 0 && newer->full_us[m] >= 0;
    double elapsed = newer->now_us - older->now_us;
    out->code = known ? elapsed > 0 ? 0 : 21 : 3;
    if (!out->code) out->value = (m < 20 ? 100 : 1) * (newer->full_us[m] - older->full_us[m]) / elapsed;
}
int nvmlGpmMetricsGet(request *r) {
    ENTER(r->newer ? r->newer->handle : NULL, 0);
    if (!c && r->version != 1) c = 25;
    if (!c && (r->count > METRICS_AT_MOST || !r->older || !r->newer)) c = 2;
    if (!c && (!r->older->taken || !r->newer->taken || r->older->handle != r->newer->handle)) c = 2;
    for (unsigned i = 0; !c && i < r->count; i++) answer(r, &r->metrics[i]);
    LEAVE;
}

#define GPUS 16
typedef struct { unsigned long long wanted[GPUS]; int told[GPUS]; unsigned generation; } event_set;
typedef struct { void *device; unsigned long long type, data; unsigned gi, ci; } event_data;
#define EVENT_TYPES 0xFF0B /* errors of all kinds, no changes of state or clock */

int nvmlEventSetCreate(event_set **out) {
    ENTER(NULL, 0);
    if (!c && !(*out = calloc(1, sizeof **out))) c = 20;
    if (!c) live_sets++;
    LEAVE;
}
int nvmlEventSetFree(event_set *one) {
    ENTER(NULL, 0);
    if (one) { free(one); live_sets--; }
    (void)c;
    return fake_leave(0);
}
int nvmlDeviceGetSupportedEventTypes(void *handle, unsigned long long *out) {
    ENTER(handle, 1);
    if (!c) *out = (unsigned long long)fake_value(t.g, "events", EVENT_TYPES);
    LEAVE;
}
int nvmlDeviceRegisterEvents(void *handle, unsigned long long types, event_set *set) {
    ENTER(handle, 1);
    unsigned long long given = c ? 0 : (unsigned long long)fake_value(t.g, "events", EVENT_TYPES);
    if (!c && types & ~given) c = 3;
    if (!c) {
        set->wanted[t.index] |= types;
        set->told[t.index] = 0;
        while (set->told[t.index] < t.g->n_events && t.g->events[set->told[t.index]].at_us <= fake_now_us()) set->told[t.index]++;
    }
    LEAVE;
}
static int next_event(event_set *set, event_data *out) {
    for (int i = 0; i < fake_count; i++) {
        gpu *g = &fake_gpus[i];
        if (set->told[i] > g->n_events) set->told[i] = g->n_events;
        while (set->told[i] < g->n_events && g->events[set->told[i]].at_us <= fake_now_us()) {
            event *one = &g->events[set->told[i]++];
            if (!(one->type & set->wanted[i])) continue;
            *out = (event_data){fake_handle(i, -1), one->type, one->data, one->gi, one->ci};
            return 1;
        }
    }
    return 0;
}
static double real_s(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return (double)t.tv_sec + (double)t.tv_nsec / 1e9; }

/* The wait is in real time, whatever the truth's clock says. */
int nvmlEventSetWait_v2(event_set *set, event_data *out, unsigned timeout_ms) {
    double until = real_s() + timeout_ms / 1e3;
    for (;;) {
        ENTER(NULL, 0);
        int found = !c && next_event(set, out), still = fake_is_still();
        double left = until - real_s(), nap = still ? left : fmin(left, 0.01);
        if (c || found || left <= 0) return fake_leave(c ? c : found ? 0 : 10);
        fake_leave(0);
        struct timespec part = {(long)nap, (long)((nap - floor(nap)) * 1e9)};
        nanosleep(&part, NULL);
    }
}
