/* The program engine's arithmetic: runs a plan (plan.py) over blocks of rows in one call, without Python.
 *
 * A row's bits do not depend on its batch, by construction: whatever the number of rows, each number of a row is made
 * by the same operations in the same order. A product's sum runs over k = 0, 1, ... in one accumulator, each step one
 * fused multiply-add, on every instruction set; everything else is +, -, *, / and comparisons of IEEE 754 single
 * precision, number by number, never contracted (the build says -ffp-contract=off). No library is called, so that the
 * bits are those of any other processor, too.
 */
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "steps.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#else
#error "no fused multiply-add is known for this processor"
#endif

typedef void run_block(const convex_step *steps, int64_t num_steps, int64_t num_rows, const float *input,
                       float *const *places, float *scratch, int64_t block_rows);

/* ------------------------------------------------------------------------------ one copy for each instruction set */
#if defined(__x86_64__)

#define NAME(x) x##_avx512
#define TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")))
#define LANES 16
#define MAX_VECTORS 4
#define VECTOR __m512
#define LOAD _mm512_loadu_ps
#define STORE _mm512_storeu_ps
#define SPREAD _mm512_set1_ps
#define FMA _mm512_fmadd_ps
#define ADD _mm512_add_ps
#define MUL _mm512_mul_ps
#define ZERO _mm512_setzero_ps
#include "block.h"
#include "forget.h"

#define NAME(x) x##_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define MAX_VECTORS 2
#define VECTOR __m256
#define LOAD _mm256_loadu_ps
#define STORE _mm256_storeu_ps
#define SPREAD _mm256_set1_ps
#define FMA _mm256_fmadd_ps
#define ADD _mm256_add_ps
#define MUL _mm256_mul_ps
#define ZERO _mm256_setzero_ps
#include "block.h"
#include "forget.h"

#else

#define NEON_FMA(a, b, c) vfmaq_f32(c, a, b)
#define NEON_ZERO() vdupq_n_f32(0.0f)
#define NAME(x) x##_neon
#define TARGET
#define LANES 4
#define MAX_VECTORS 4
#define VECTOR float32x4_t
#define LOAD vld1q_f32
#define STORE vst1q_f32
#define SPREAD vdupq_n_f32
#define FMA NEON_FMA
#define ADD vaddq_f32
#define MUL vmulq_f32
#define ZERO NEON_ZERO
#include "block.h"
#include "forget.h"

#endif

#if defined(__x86_64__)

/* Return the highest level of instructions that this processor has and its system keeps (Intel SDM 1, 14.3): 1 AVX2 and
 * FMA, 2 AVX-512 too; 0: none that this code could use. Takes a while: to be asked once. */
int64_t convex_level(void)
{
    unsigned a, b, c, d, low, high;
    const unsigned needed = bit_FMA | bit_AVX | bit_OSXSAVE;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & needed) != needed)
        return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & 0x06) != 0x06 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2))
        return 0;
    const unsigned wide = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
    return (low & 0xe6) == 0xe6 && (b & wide) == wide ? 2 : 1;
}

#else

int64_t convex_level(void) { return 1; }

#endif

/* Return the floats of a matrix panel's row: the layout that plan.py packs matrices in. */
int64_t convex_panel(void) { return CONVEX_PANEL; }

/* What the threads of one call have in common. */
typedef struct {
    run_block *run;
    const convex_step *steps;
    int64_t num_steps;
    const float *rows;
    int64_t num_rows, dim;
    float *score, *gradient;
    int64_t block_rows;
    int64_t taken; /* rows that are computed already or are being computed */
} shared_call;

typedef struct {
    shared_call *call;
    float *scratch;
    pthread_t thread;
} worker;

/* Compute one block of rows after the other, until all are taken. */
static void *work(void *argument)
{
    const worker *self = argument;
    shared_call *call = self->call;
    int64_t start;
    while ((start = __atomic_fetch_add(&call->taken, call->block_rows, __ATOMIC_RELAXED)) < call->num_rows) {
        int64_t count = call->num_rows - start < call->block_rows ? call->num_rows - start : call->block_rows;
        float *const places[2] = {call->score + start, call->gradient == NULL ? NULL : call->gradient + start * call->dim};
        call->run(call->steps, call->num_steps, count, call->rows + start * call->dim, places, self->scratch,
                  call->block_rows);
    }
    return NULL;
}

/* Run a plan over rows, and return how many threads did.
 *
 * level:       from 1 to convex_level(); the bits are the same.
 * rows:        [num_rows, dim].
 * score:       [num_rows].
 * gradient:    [num_rows, dim], or NULL where the plan has none.
 * scratch:     num_threads * scratch_size floats, of one caller at a time.
 * scratch_size: at least block_rows * the plan's scratch width.
 * num_threads: the most that may share the rows, this one included; at most CONVEX_MAX_THREADS. They end with the call.
 */
int64_t convex_run(int64_t level, const convex_step *steps, int64_t num_steps, const float *rows, int64_t num_rows,
                   int64_t dim, float *score, float *gradient, float *scratch, int64_t scratch_size, int64_t block_rows,
                   int64_t num_threads)
{
#if defined(__x86_64__)
    run_block *run = level == 2 ? run_avx512 : run_avx2;
#else
    run_block *run = run_neon;
    (void)level;
#endif
    shared_call call = {run, steps, num_steps, rows, num_rows, dim, score, gradient, block_rows, 0};
    worker workers[CONVEX_MAX_THREADS];
    int64_t started = 0;
    for (int64_t i = 0; i < num_threads && i < CONVEX_MAX_THREADS; i++) {
        workers[i].call = &call;
        workers[i].scratch = scratch + i * scratch_size;
        if (i > 0 && pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
            break; /* the others do it */
        started = i + 1;
    }
    work(&workers[0]);
    for (int64_t i = 1; i < started; i++)
        pthread_join(workers[i].thread, NULL);
    return started;
}
