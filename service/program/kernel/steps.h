/* The steps of a plan, as plan.py writes them: the same names, numbers and layout. */
#ifndef CONVEX_STEPS_H
#define CONVEX_STEPS_H

#include <stdint.h>

/* Floats of a row of a packed matrix panel. */
#define CONVEX_PANEL 64

/* Terms of a product's sum that are summed by themselves. */
#ifndef CONVEX_CHUNK
#define CONVEX_CHUNK 64
#endif

/* Threads that may share a call. */
#define CONVEX_MAX_THREADS 64

/* Where a step reads and writes: a place in the scratch memory, counted in floats a row, or one of these. */
#define CONVEX_INPUT (-1)
#define CONVEX_SCORE (-2)
#define CONVEX_GRADIENT (-3)
#define CONVEX_NOWHERE (-4)

enum {
    CONVEX_FILL = 0,     /* out = bias, or 0 */
    CONVEX_PRODUCT = 1,  /* out = first W + bias, or out += first W; then out *= second, if any; W [depth, width] */
    CONVEX_SUM = 2,      /* out (+)= first */
    CONVEX_SCALE = 3,    /* out (+)= first * s */
    CONVEX_DIVIDE = 4,   /* out (+)= first / c */
    CONVEX_TIMES = 5,    /* out (+)= first * second */
    CONVEX_MAXIMUM = 6,  /* out = max(first, second); slope = 1 where the first is not below the second, else 0 */
    CONVEX_REST = 7,     /* out (+)= first * (1 - second), for second 0 or 1 */
    CONVEX_DOT = 8,      /* a product for a width of 1; w [depth] */
    CONVEX_SOFTPLUS = 16,
    CONVEX_LEAKY_RELU = 17,
    CONVEX_ELU = 18,
    CONVEX_EXP = 19,
    CONVEX_SQUARE = 20,
    CONVEX_SQUARED_LEAKY = 21,
    CONVEX_ABS = 22,
};

typedef struct {
    int64_t operation;
    int64_t width;        /* of out, in floats a row */
    int64_t depth;        /* of the first argument of a product */
    int64_t first;        /* places */
    int64_t second;
    int64_t out;
    int64_t slope;        /* where an atom's slope goes, or CONVEX_NOWHERE */
    int64_t accumulates;  /* whether out is added to */
    const float *numbers; /* matrix in panels, vector, factors or divisors */
    const float *bias;    /* or NULL */
    double parameter;     /* an atom's */
} convex_step;

#endif
