/* Reads the truth, keeps its clock, and integrates over its timeline; see fake_nvml.c. */
#define _GNU_SOURCE
#include "fake_nvml_state.h"

#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define GPUS 16
#define CALLS 160

gpu fake_gpus[GPUS], fake_system;
int fake_count;
char fake_driver[32];

enum { FAIL, SLOW, HANG, FIELD };
static const char *const named[] = {"fail", "slow", "hang", "gpm", "gpm_us", NULL};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int init_code, up, still, lines;
static double fixed_now_us, zero_us, call_us;
static int has_fixed_now;
static volatile int64_t *clock_us;
static char seen_path[4096];
static struct stat seen;
static struct { const char *call; unsigned long count; } calls[CALLS];
static int n_calls;

static void add(gpu *g, const char *key, double at_us, double number, int type) {
    if (g->n_steps == g->room) {
        g->room = g->room ? 2 * g->room : 128;
        g->steps = realloc(g->steps, g->room * sizeof *g->steps);
        if (!g->steps) abort();
    }
    step *one = &g->steps[g->n_steps++];
    snprintf(one->key, sizeof one->key, "%s", key);
    one->at_us = at_us; one->number = number; one->type = type; one->line = lines++;
}

static int in_order(const void *a, const void *b) {
    const step *x = a, *y = b;
    int names = strcmp(x->key, y->key);
    if (names) return names;
    if (x->at_us != y->at_us) return x->at_us < y->at_us ? -1 : 1;
    return x->line - y->line;
}

/* The first step of a key, or where it would stand. */
static int first_of(const gpu *g, const char *key) {
    int low = 0, high = g->n_steps;
    while (low < high) {
        int middle = (low + high) / 2;
        if (strcmp(g->steps[middle].key, key) < 0) low = middle + 1; else high = middle;
    }
    return low;
}

static int is(const gpu *g, int i, const char *key) { return i < g->n_steps && !strcmp(g->steps[i].key, key); }

int fake_first(const gpu *g, const char *key) {
    int first = first_of(g, key);
    return is(g, first, key) ? first : -1;
}

const step *fake_find_at(const gpu *g, int i) {
    const step *found = NULL;
    if (i < 0) return NULL;
    double now = fake_now_us();
    for (const char *key = g->steps[i].key; is(g, i, key) && g->steps[i].at_us <= now; i++) found = &g->steps[i];
    return found;
}

const step *fake_find(const gpu *g, const char *key) { return fake_find_at(g, fake_first(g, key)); }

double fake_value(const gpu *g, const char *key, double otherwise) {
    const step *found = fake_find(g, key);
    return found ? found->number : otherwise;
}

double fake_product_at(const gpu *g, int i, int j, double from_us, double to_us) {
    if (i < 0) return 0;
    const char *key = g->steps[i].key, *other = j < 0 ? NULL : g->steps[j].key;
    double a = 0, b = other ? 0 : 1, at = from_us, sum = 0;
    while (at < to_us || at == from_us) {
        while (is(g, i, key) && g->steps[i].at_us <= at) a = g->steps[i++].number;
        while (other && is(g, j, other) && g->steps[j].at_us <= at) b = g->steps[j++].number;
        double next = to_us;
        if (is(g, i, key)) next = fmin(next, g->steps[i].at_us);
        if (other && is(g, j, other)) next = fmin(next, g->steps[j].at_us);
        if (next <= at) break;
        sum += a * b * (next - at);
        at = next;
    }
    return sum;
}

double fake_product(const gpu *g, const char *key, const char *other, double from_us, double to_us) {
    int second = other ? fake_first(g, other) : -1;
    return other && second < 0 ? 0 : fake_product_at(g, fake_first(g, key), second, from_us, to_us);
}

/* Since when counters count: the last reset, or second 0. */
double fake_reset_us(const gpu *g, double now_us) {
    double at = zero_us;
    for (int i = first_of(g, "reset"); is(g, i, "reset") && g->steps[i].at_us <= now_us; i++)
        if (g->steps[i].at_us > at) at = g->steps[i].at_us;
    return at;
}

/* The time of the call that is under way. */
double fake_now_us(void) { return call_us; }

static double read_clock(void) {
    struct timespec t;
    if (clock_us) return (double)*clock_us;
    if (has_fixed_now) return fixed_now_us;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void open_clock(const char *path) {
    int file = open(path, O_RDONLY);
    void *memory = file < 0 ? MAP_FAILED : mmap(NULL, 8, PROT_READ, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    if (memory == MAP_FAILED) abort();
    clock_us = memory;
}

static void mark(gpu *g, const char *metric) {
    int m = atoi(metric);
    if (m >= 0 && m < METRICS_AT_MOST) g->has_metric[m] = 1;
}

/* Lines that may stand after `at SECOND`. */
static int timed_line(gpu *g, const char *line, double at_us) {
    char word[32], name[64], key[112], scope[24] = "0"; double number = 0; int type = 0, n;
    if (sscanf(line, "%31s %63s", word, name) != 2) return 0;
    if (!strcmp(word, "reset")) { add(g, "reset", at_us, 1, 0); return 1; }
    if (!strcmp(word, "field") && (n = sscanf(line, "%*s %*s %d %lf %23s", &type, &number, scope)) >= 2) {
        snprintf(key, sizeof key, strcmp(scope, "0") ? "f%s.%s" : "f%s", name, scope);
        add(g, key, at_us, number, type);
        return 1;
    }
    if (!strcmp(word, "field_error") && (n = sscanf(line, "%*s %*s %lf %23s", &number, scope)) >= 1) {
        snprintf(key, sizeof key, strcmp(scope, "0") ? "e%s.%s" : "e%s", name, scope);
        add(g, key, at_us, number, 0);
        g->has_kind[FIELD] = 1;
        return 1;
    }
    if (sscanf(line, "%*s %*s %lf", &number) != 1) return 0;
    if (!strcmp(word, "set")) { add(g, name, at_us, number, 0); return 1; }
    for (int i = 0; named[i]; i++)
        if (!strcmp(word, named[i])) {
            snprintf(key, sizeof key, "%s.%s", word, name);
            add(g, key, at_us, number, 0);
            if (i <= HANG) g->has_kind[i] = 1; else mark(g, name);
            return 1;
        }
    return 0;
}

static double moment(double seconds, int has) { return has ? zero_us + seconds * 1e6 : INFINITY; }

static int instance_line(gpu *g, const char *line) {
    instance *one = &g->instances[g->n_instances];
    double from = 0, to = 0;
    if (g->n_instances >= INSTANCES) abort();
    int n = sscanf(line, "%*s %d %d %d %95s %31s %d %llu %u %lf %lf", &one->index, &one->gi, &one->ci,
                   one->uuid, one->profile, &one->sms, &one->memory_mb, &one->slices, &from, &to);
    one->from_us = n >= 9 ? moment(from, 1) : -INFINITY; one->to_us = moment(to, n >= 10);
    g->n_instances++;
    return n >= 8;
}

static int process_line(gpu *g, const char *line) {
    process *one = &g->processes[g->n_processes];
    double from = 0, to = 0; int gi = -1, ci = -1;
    if (g->n_processes >= PROCESSES) abort();
    int n = sscanf(line, "%*s %u %lld %d %d %d %lf %lf", &one->pid, &one->memory, &one->sm_util, &gi, &ci, &from, &to);
    one->gi = (unsigned)gi; one->ci = (unsigned)ci;
    one->from_us = n >= 6 ? moment(from, 1) : -INFINITY; one->to_us = moment(to, n >= 7);
    g->n_processes++;
    return n >= 3;
}

static int event_line(gpu *g, const char *line) {
    event *one = &g->events[g->n_events];
    double at = 0; int gi = -1, ci = -1;
    if (g->n_events >= EVENTS) abort();
    int n = sscanf(line, "%*s %lf %lli %llu %d %d", &at, (long long *)&one->type, &one->data, &gi, &ci);
    one->at_us = moment(at, 1); one->gi = (unsigned)gi; one->ci = (unsigned)ci;
    g->n_events++;
    return n >= 3;
}

static gpu *fresh_gpu(void) {
    if (fake_count >= GPUS) abort();
    gpu *g = &fake_gpus[fake_count++];
    step *steps = g->steps; int room = g->room;
    memset(g, 0, sizeof *g);
    g->steps = steps; g->room = room;
    return g;
}

static void line_of(char *line) {
    char word[32], path[4096]; int used = 0; double seconds;
    gpu *g = fake_count ? &fake_gpus[fake_count - 1] : &fake_system;
    if (sscanf(line, "%31s", word) != 1) return;
    if (!strcmp(word, "driver")) sscanf(line, "%*s %31s", fake_driver);
    else if (!strcmp(word, "init")) sscanf(line, "%*s %d", &init_code);
    else if (!strcmp(word, "still")) still = 1;
    else if (!strcmp(word, "zero_us")) sscanf(line, "%*s %lf", &zero_us);
    else if (!strcmp(word, "now_us")) { sscanf(line, "%*s %lf", &fixed_now_us); has_fixed_now = 1; }
    else if (!strcmp(word, "clock")) { if (sscanf(line, "%*s %4095s", path) == 1) open_clock(path); }
    else if (!strcmp(word, "gpu")) fresh_gpu();
    else if (!strcmp(word, "bus")) sscanf(line, "%*s %x %x %x", &g->domain, &g->bus, &g->device);
    else if (!strcmp(word, "pci")) sscanf(line, "%*s %x", &g->pci_id);
    else if (!strcmp(word, "uuid")) sscanf(line, "%*s %95s", g->uuid);
    else if (!strcmp(word, "name")) sscanf(line, "%*s %95[^\n]", g->name);
    else if (!strcmp(word, "serial")) sscanf(line, "%*s %63s", g->serial);
    else if (!strcmp(word, "instance")) { if (!instance_line(g, line)) abort(); }
    else if (!strcmp(word, "process")) { if (!process_line(g, line)) abort(); }
    else if (!strcmp(word, "event")) { if (!event_line(g, line)) abort(); }
    else if (!strcmp(word, "at")) {
        if (sscanf(line, "%*s %lf %n", &seconds, &used) != 1 || !used) abort();
        if (!timed_line(g, line + used, moment(seconds, 1))) abort();
    } else if (!timed_line(g, line, -INFINITY)) abort();
}

/* In order, and what is asked for most by its place. */
static void in_place(gpu *g) {
    char key[32];
    qsort(g->steps, g->n_steps, sizeof(step), in_order);
    for (int i = 0; i < FIELDS; i++) { snprintf(key, sizeof key, "f%d", i); g->field_at[i] = fake_first(g, key); }
    for (int m = 0; m < METRICS_AT_MOST; m++) {
        snprintf(key, sizeof key, "gpm.%d", m); g->level_at[m] = fake_first(g, key);
        snprintf(key, sizeof key, "gpm_us.%d", m); g->whole_at[m] = fake_first(g, key);
    }
}

static void reload(void) {
    const char *path = getenv("FAKE_NVML_STATE");
    struct stat now; char line[4400];
    if (still && path && !strcmp(path, seen_path)) return;
    if (!path || stat(path, &now)) { init_code = 9; fake_count = 0; return; }
    if (!strcmp(path, seen_path) && now.st_ino == seen.st_ino && now.st_mtim.tv_sec == seen.st_mtim.tv_sec &&
        now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec && now.st_size == seen.st_size) return;
    FILE *file = fopen(path, "r");
    if (!file) abort();
    snprintf(seen_path, sizeof seen_path, "%s", path);
    if (clock_us) munmap((void *)clock_us, 8);
    clock_us = NULL; zero_us = 0; lines = 0;
    seen = now; fake_count = init_code = has_fixed_now = still = fake_system.n_steps = 0;
    memset(fake_system.has_kind, 0, sizeof fake_system.has_kind);
    while (fgets(line, sizeof line, file)) line_of(line);
    fclose(file);
    qsort(fake_system.steps, fake_system.n_steps, sizeof(step), in_order);
    for (int i = 0; i < fake_count; i++) in_place(&fake_gpus[i]);
}

static void load(void) { reload(); call_us = read_clock(); }

int fake_is_still(void) { return still; }

/* Handles are the GPU's number plus one, and above it the instance's index plus one, so that
 * they outlive a change of the file, and are used again for what then has that index. */
void *fake_handle(int gpu_index, int instance_index) { return (void *)(long)((gpu_index + 1) | (instance_index + 1) << 8); }

instance *fake_part(gpu *g, int by_instance_id, int id) {
    double now = fake_now_us();
    for (int i = 0; i < g->n_instances; i++) {
        instance *one = &g->instances[i];
        if ((by_instance_id ? one->gi : one->index) == id && one->from_us <= now && now < one->to_us) return one;
    }
    return NULL;
}

static int aim(void *handle, target *out) {
    long value = (long)handle, index = (value & 0xff) - 1, part = (value >> 8) - 1;
    out->g = &fake_system; out->part = NULL; out->index = -1;
    if (!handle) return 0;
    if (index < 0 || index >= fake_count) return 15;
    out->g = &fake_gpus[index]; out->index = (int)index;
    if (part < 0) return 0;
    out->part = fake_part(out->g, 0, (int)part);
    return out->part ? 0 : (int)fake_value(out->g, "stale_code", 2);
}

static double of_call(const gpu *g, int kind, const char *call) {
    char key[112];
    if (!g->has_kind[kind]) return 0;
    snprintf(key, sizeof key, "%s.all", named[kind]);
    double all = fake_value(g, key, 0);
    snprintf(key, sizeof key, "%s.%.60s", named[kind], call);
    return all ? all : fake_value(g, key, 0);
}

static unsigned long *counter(const char *call) {
    if (n_calls >= CALLS) abort();
    calls[n_calls].call = call;
    return &calls[n_calls++].count;
}

unsigned long fakeCalls(const char *call) {
    unsigned long count = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < n_calls; i++) if (!strcmp(calls[i].call, call)) count = calls[i].count;
    pthread_mutex_unlock(&lock);
    return count;
}

/* Waits as the truth says, without the lock; ends early when the truth no longer says so. */
static void wait_out(void *handle, const char *call, double seconds, int kind) {
    struct timespec part = {0, 5 * 1000 * 1000};
    for (double waited = 0; waited < seconds; waited += 0.005) {
        target again;
        pthread_mutex_unlock(&lock);
        if (seconds - waited < 0.005) part.tv_nsec = (long)((seconds - waited) * 1e9);
        nanosleep(&part, NULL);
        pthread_mutex_lock(&lock);
        load();
        if (aim(handle, &again) || !of_call(again.g, kind, call)) return;
    }
}

int fake_enter(void *handle, const char *call, int whole, target *out, unsigned long **count) {
    double wait;
    pthread_mutex_lock(&lock);
    if (!*count) *count = counter(call);
    ++**count;
    load();
    int code = aim(handle, out);
    if (!code && (wait = of_call(out->g, HANG, call))) wait_out(handle, call, wait, HANG);
    if (!code && (wait = of_call(out->g, SLOW, call))) wait_out(handle, call, wait / 1e6, SLOW);
    code = init_code ? init_code : !up ? 1 : aim(handle, out);
    if (!code) code = (int)of_call(out->g, FAIL, call);
    return code ? code : whole && out->part ? 3 : 0;
}

int fake_leave(int code) { pthread_mutex_unlock(&lock); return code; }

int fake_initialise(void) {
    pthread_mutex_lock(&lock);
    load();
    int code = init_code ? init_code : (int)of_call(&fake_system, FAIL, "nvmlInitWithFlags");
    if (!code) up++;
    return fake_leave(code);
}

int fake_shutdown(void) {
    pthread_mutex_lock(&lock);
    int code = up ? 0 : 1;
    if (up) up--;
    return fake_leave(code);
}

int fakeOpen(void) { return up; }
