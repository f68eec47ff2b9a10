/* A stand-in for CUDA's runtime library on a machine without a GPU: device memory is host memory, a stream
 * does its work at once, a capture records it. Only what pqbench_runtime/cuda.py calls. */
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <time.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, CAPTURE_UNSUPPORTED = 900 };
typedef void (*work_t)(void *);
typedef struct node { int is_copy; /* 1: to the device, 2: from it */ void *to; const void *from; size_t size; work_t work; void *argument; struct node *next; } node;
typedef struct { node *first, **last; int broken; } graph;
typedef struct { graph *capturing; } stream;
typedef struct { double seconds; } event;
static int last_error;

static int result(int status) { if (status) last_error = status; return status; }
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
static void run(const node *n) {
  if (!n->is_copy) { n->work(n->argument); return; }
  memcpy(n->to, n->from, n->size);
  if (n->is_copy == 2 && getenv("EMULATED_WRONG")) ((char *)n->to)[0] ^= 1; /* a test wants a broken copy */
}

static int queue(stream *s, node n) {
  if (!s) return result(INVALID_VALUE);
  if (!s->capturing) { run(&n); return SUCCESS; }
  node *kept = malloc(sizeof n);
  *kept = n;
  kept->next = NULL;
  *s->capturing->last = kept;
  s->capturing->last = &kept->next;
  return SUCCESS;
}

/* For the TensorRT stand-in: queue a call; refuse captures of it where a test asks for that. */
int emulator_enqueue(stream *s, work_t work, void *argument) {
  if (s && s->capturing && getenv("EMULATED_NO_CAPTURE")) { s->capturing->broken = 1; return CAPTURE_UNSUPPORTED; }
  return queue(s, (node){0, NULL, NULL, 0, work, argument, NULL});
}

int cudaMalloc(void **p, size_t size) {
  if (size > ((size_t)1 << 36)) return result(OUT_OF_MEMORY);
  *p = calloc(1, size);
  return result(*p ? SUCCESS : OUT_OF_MEMORY);
}
int cudaFree(void *p) { free(p); return SUCCESS; }
int cudaHostAlloc(void **p, size_t size, unsigned flags) { return cudaMalloc(p, size); }
int cudaFreeHost(void *p) { free(p); return SUCCESS; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, stream *s) { return queue(s, (node){kind, to, from, size, NULL, NULL, NULL}); }
int cudaStreamCreateWithFlags(stream **s, unsigned flags) { *s = calloc(1, sizeof **s); return SUCCESS; }
int cudaStreamSynchronize(stream *s) { return s && !s->capturing ? SUCCESS : result(INVALID_VALUE); }
int cudaStreamDestroy(stream *s) { free(s); return SUCCESS; }
int cudaStreamBeginCapture(stream *s, int mode) {
  s->capturing = calloc(1, sizeof(graph));
  s->capturing->last = &s->capturing->first;
  return SUCCESS;
}
int cudaStreamEndCapture(stream *s, graph **g) {
  *g = s->capturing;
  s->capturing = NULL;
  return result((*g)->broken ? CAPTURE_UNSUPPORTED : SUCCESS);
}
int cudaGraphInstantiateWithFlags(graph **made, graph *g, unsigned long long flags) {
  *made = malloc(sizeof **made);
  **made = *g;
  return SUCCESS;
}
int cudaGraphLaunch(graph *g, stream *s) {
  for (node *n = g->first; n; n = n->next) queue(s, *n);
  return SUCCESS;
}
int cudaGraphExecDestroy(graph *g) {
  for (node *n = g->first, *next; n; n = next) { next = n->next; free(n); }
  free(g);
  return SUCCESS;
}
int cudaGraphDestroy(graph *g) { free(g); return SUCCESS; }
int cudaEventCreateWithFlags(event **e, unsigned flags) { *e = calloc(1, sizeof **e); return SUCCESS; }
int cudaEventRecord(event *e, stream *s) { e->seconds = now(); return SUCCESS; }
int cudaEventSynchronize(event *e) { return SUCCESS; }
int cudaEventElapsedTime(float *milliseconds, event *from, event *to) { *milliseconds = (to->seconds - from->seconds) * 1e3; return SUCCESS; }
int cudaEventDestroy(event *e) { free(e); return SUCCESS; }
int cudaRuntimeGetVersion(int *version) { *version = 12090; return SUCCESS; }
int cudaGetDevice(int *device) { *device = 0; return getenv("EMULATED_NO_DEVICE") ? result(100) : SUCCESS; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
  const char *capability = getenv("EMULATED_CAPABILITY"); /* such as 120: major and minor of compute capability 12.0 */
  int number = capability ? atoi(capability) : 90;
  *value = attribute == 75 ? number / 10 : number % 10;
  return SUCCESS;
}
int cudaDeviceGetPCIBusId(char *text, int size, int device) { snprintf(text, size, "0000:0F:00.0"); return SUCCESS; }
int cudaGetDeviceProperties(char *properties, int device) { strcpy(properties, "Emulated GPU MIG 1g.5gb"); return SUCCESS; }
int cudaGetLastError(void) { int status = last_error; last_error = SUCCESS; return status; }
const char *cudaGetErrorString(int status) {
  switch (status) {
    case OUT_OF_MEMORY: return "out of memory";
    case 100: return "no CUDA-capable device is detected";
    case CAPTURE_UNSUPPORTED: return "operation not permitted when stream is capturing";
    default: return "invalid argument";
  }
}
