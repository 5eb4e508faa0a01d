/* The truth that the fake NVML tells; its format is at the head of fake_nvml.c. */
#ifndef FAKE_NVML_STATE_H
#define FAKE_NVML_STATE_H

#define METRICS_AT_MOST 98 /* the array's length in a driver older than the bindings */
#define CYCLES_FIRST 248
#define CYCLES_LAST 260
#define FIELDS 512
#define INSTANCES 16
#define PROCESSES 64
#define EVENTS 256

typedef struct { char key[72]; double at_us, number; int type, line; } step;
typedef struct { int index, gi, ci, sms; unsigned long long memory_mb; unsigned slices; char uuid[96], profile[32]; double from_us, to_us; } instance;
typedef struct { unsigned pid, gi, ci; long long memory; int sm_util; double from_us, to_us; } process;
typedef struct { double at_us; unsigned long long type, data; unsigned gi, ci; } event;

typedef struct {
    unsigned domain, bus, device, pci_id;
    char uuid[96], name[96], serial[64];
    step *steps; /* in order of key, then time */
    int n_steps, room;
    /* Where the steps of a field (scope 0), of a metric's level and of its integral begin; -1. */
    int field_at[FIELDS], level_at[METRICS_AT_MOST], whole_at[METRICS_AT_MOST];
    unsigned char has_metric[METRICS_AT_MOST], has_kind[4]; /* failing, slow, hanging calls, failing fields */
    instance instances[INSTANCES]; int n_instances;
    process processes[PROCESSES]; int n_processes;
    event events[EVENTS]; int n_events;
} gpu;

/* What one call is about: the GPU, and the instance where the handle is one's. */
typedef struct { gpu *g; instance *part; int index; } target;

extern gpu fake_gpus[];
extern gpu fake_system; /* failures of calls that are about no GPU */
extern int fake_count;
extern char fake_driver[];

/* Each call is between `fake_enter` and `fake_leave`, which holds the one lock; a slow or
 * hanging call waits before it, so that it holds up nobody else.  A null handle is the system. */
int fake_enter(void *handle, const char *call, int whole, target *out, unsigned long **calls);
int fake_leave(int code);
double fake_now_us(void);
int fake_is_still(void);
void *fake_handle(int gpu_index, int instance_index);
instance *fake_part(gpu *g, int by_instance_id, int id);
const step *fake_find(const gpu *g, const char *key);
const step *fake_find_at(const gpu *g, int first);
int fake_first(const gpu *g, const char *key);
double fake_value(const gpu *g, const char *key, double otherwise);
/* Integral over time in µs of a key's value, or of the product of two keys' values; keys may
 * be given by where their steps begin (-1: no second one). */
double fake_product_at(const gpu *g, int first, int other, double from_us, double to_us);
double fake_product(const gpu *g, const char *key, const char *other, double from_us, double to_us);
double fake_reset_us(const gpu *g, double now_us);
int fake_initialise(void);
int fake_shutdown(void);

#endif
