/* A plan over one block of rows, for the instruction set of the macros: NAME, TARGET, LANES, MAX_VECTORS, VECTOR, ... */

#define INLINE TARGET static inline __attribute__((always_inline))
#define MAX_ROWS 6
#define DOT_ROWS 12
#define LINE 16 /* floats of a line of the cache */
#define UNROLLED _Pragma("GCC unroll 6")

/* ------------------------------------------------------------------------------------------------------- products */

/* What one product of a few rows and columns reads and writes: out[rows][width] = (from + in[rows][depth] panel) * times.
 * from: a sum that was there, the bias of every row (from_width 0), or NULL; times: as wide as out, or NULL; ahead: what
 * is read next, a line for each k. */
typedef struct {
    const float *in, *panel, *from, *times, *ahead;
    float *out;
    int64_t in_width, depth, from_width, out_width;
} NAME(operands);

INLINE void NAME(tile)(const NAME(operands) *operands, int rows, int vectors)
{
    const NAME(operands) o = *operands;
    VECTOR sum[MAX_ROWS][MAX_VECTORS];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++)
            sum[i][j] = ZERO();
    for (int64_t k = 0; k < o.depth; k++) {
        VECTOR right[MAX_VECTORS];
        if (rows > 1)
            __builtin_prefetch(o.ahead + k * LINE, 0, 2);
        for (int j = 0; j < vectors; j++)
            right[j] = LOAD(o.panel + k * CONVEX_PANEL + j * LANES);
        for (int i = 0; i < rows; i++) {
            VECTOR left = SPREAD(o.in[i * o.in_width + k]);
            for (int j = 0; j < vectors; j++)
                sum[i][j] = FMA(left, right[j], sum[i][j]);
        }
    }
    /* Unrolled, so that the sums stay in registers. */
    if (o.from != NULL)
        UNROLLED for (int i = 0; i < rows; i++)
            for (int j = 0; j < vectors; j++)
                sum[i][j] = ADD(LOAD(o.from + i * o.from_width + j * LANES), sum[i][j]);
    if (o.times != NULL)
        UNROLLED for (int i = 0; i < rows; i++)
            for (int j = 0; j < vectors; j++)
                sum[i][j] = MUL(sum[i][j], LOAD(o.times + i * o.out_width + j * LANES));
    UNROLLED for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++)
            STORE(o.out + i * o.out_width + j * LANES, sum[i][j]);
}

#define TILE(rows, vectors)                                                                                            \
    case rows * 8 + vectors:                                                                                           \
        NAME(tile)(o, rows, vectors);                                                                                  \
        break;
#define TILES(vectors) TILE(1, vectors) TILE(2, vectors) TILE(3, vectors) TILE(4, vectors) TILE(5, vectors) TILE(6, vectors)

TARGET static void NAME(any_tile)(const NAME(operands) *o, int64_t rows, int64_t vectors)
{
    switch (rows * 8 + vectors) {
        TILES(1)
        TILES(2)
#if MAX_VECTORS == 4
        TILES(3)
        TILES(4)
#endif
    }
}

/* The same for a width that fills no vectors: in memory that does. */
TARGET static void NAME(edge)(const NAME(operands) *o, int64_t rows, int64_t width)
{
    enum { COLUMNS = MAX_VECTORS * LANES };
    float from[MAX_ROWS * COLUMNS] = {0}, times[MAX_ROWS * COLUMNS] = {0}, out[MAX_ROWS * COLUMNS];
    NAME(operands) whole = *o;
    whole.from = o->from == NULL ? NULL : from;
    whole.times = o->times == NULL ? NULL : times;
    whole.out = out;
    whole.from_width = whole.out_width = COLUMNS;
    for (int64_t i = 0; i < rows; i++) {
        if (o->from != NULL)
            memcpy(from + i * COLUMNS, o->from + i * o->from_width, (size_t)width * sizeof(float));
        if (o->times != NULL)
            memcpy(times + i * COLUMNS, o->times + i * o->out_width, (size_t)width * sizeof(float));
    }
    NAME(any_tile)(&whole, rows, (width + LANES - 1) / LANES);
    for (int64_t i = 0; i < rows; i++)
        memcpy(o->out + i * o->out_width, out + i * COLUMNS, (size_t)width * sizeof(float));
}

/* out[num_rows][width] = bias + in[num_rows][depth] W, or out + in W, times `times`: a part of at most CONVEX_CHUNK terms
 * of every sum after the other, so that its panel stays in the cache and its rounding small. */
TARGET static void NAME(product)(const convex_step *step, int64_t num_rows, const float *in, const float *times,
                                 float *out)
{
    const int64_t columns = MAX_VECTORS * LANES;
    for (int64_t column = 0; column < step->width; column += columns) {
        int64_t width = step->width - column < columns ? step->width - column : columns;
        const float *panel = step->numbers + column / CONVEX_PANEL * CONVEX_PANEL * step->depth + column % CONVEX_PANEL;
        for (int64_t k = 0; k < step->depth; k += CONVEX_CHUNK) {
            int64_t depth = step->depth - k < CONVEX_CHUNK ? step->depth - k : CONVEX_CHUNK;
            int is_sum = step->accumulates || k > 0, is_last = k + depth == step->depth;
            NAME(operands) o = {.depth = depth, .in_width = step->depth, .out_width = step->width,
                                .panel = panel + k * CONVEX_PANEL, .from_width = is_sum ? step->width : 0};
            const float *from = is_sum ? out + column : step->bias == NULL ? NULL : step->bias + column;
            for (int64_t row = 0; row < num_rows; row += MAX_ROWS) {
                int64_t rows = num_rows - row < MAX_ROWS ? num_rows - row : MAX_ROWS;
                o.in = in + row * step->depth + k;
                o.from = from == NULL ? NULL : from + row * o.from_width;
                o.times = is_last && times != NULL ? times + row * step->width + column : NULL;
                o.out = out + row * step->width + column;
                o.ahead = o.panel + CONVEX_CHUNK * (CONVEX_PANEL + row / MAX_ROWS % 4 * LINE);
                if (width % LANES == 0)
                    NAME(any_tile)(&o, rows, width / LANES);
                else
                    NAME(edge)(&o, rows, width);
            }
        }
    }
}

/* out[rows] = from + in[rows][depth] . column, in the order of a product; from: out, or one number for all rows. */
INLINE void NAME(dot)(const convex_step *step, const float *in, float *out, int rows)
{
    for (int64_t k = 0; k < step->depth; k += CONVEX_CHUNK) {
        int64_t end = step->depth - k < CONVEX_CHUNK ? step->depth : k + CONVEX_CHUNK;
        float sum[DOT_ROWS] = {0.0f};
        for (int64_t j = k; j < end; j++)
            for (int i = 0; i < rows; i++)
                sum[i] = __builtin_fmaf(in[i * step->depth + j], step->numbers[j], sum[i]);
        for (int i = 0; i < rows; i++)
            out[i] = step->accumulates || k > 0 ? out[i] + sum[i] : step->bias == NULL ? sum[i] : *step->bias + sum[i];
    }
}

TARGET static void NAME(dots)(const convex_step *step, int64_t num_rows, const float *in, float *out)
{
    int64_t row = 0;
    for (; row + DOT_ROWS <= num_rows; row += DOT_ROWS)
        NAME(dot)(step, in + row * step->depth, out + row, DOT_ROWS);
    for (; row < num_rows; row++)
        NAME(dot)(step, in + row * step->depth, out + row, 1);
}

/* ---------------------------------------------------------------------------------------- functions of one number */

/* Return p and n of exp(x) = 2^n (1 + p), |p| < 0.42: Cody and Waite's reduction, Cephes' polynomial (Moshier). For x from
 * -104 to 89: beyond, exp is 0 or infinite. */
INLINE float NAME(reduced_exp)(float x, int32_t *n)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: what is added to it is rounded to a whole number, in its last bits */
    union { float value; uint32_t bits; } shifted = {__builtin_fmaf(x, 1.44269504088896341f, magic)};
    float whole = shifted.value - magic;
    float r = __builtin_fmaf(whole, -0.693359375f, x);
    r = __builtin_fmaf(whole, 2.12194440e-4f, r);
    float q = 1.9875691500e-4f;
    q = __builtin_fmaf(q, r, 1.3981999507e-3f);
    q = __builtin_fmaf(q, r, 8.3334519073e-3f);
    q = __builtin_fmaf(q, r, 4.1665795894e-2f);
    q = __builtin_fmaf(q, r, 1.6666665459e-1f);
    q = __builtin_fmaf(q, r, 5.0000001201e-1f);
    *n = (int32_t)(shifted.bits - 0x4b400000u);
    return __builtin_fmaf(r * r, q, r);
}

/* Return y 2^n for -151 < n < 130: by two factors, because one would leave the floats at the ends. */
INLINE float NAME(scaled)(float y, int32_t n)
{
    int32_t half = n >> 1;
    union { uint32_t bits; float value; } first = {(uint32_t)(half + 127) << 23};
    union { uint32_t bits; float value; } second = {(uint32_t)(n - half + 127) << 23};
    return y * first.value * second.value;
}

INLINE float NAME(exp)(float x)
{
    int32_t n;
    float p = NAME(reduced_exp)(x, &n);
    return NAME(scaled)(1.0f + p, n);
}

/* Return log(1 + e) for 0 <= e <= 1: 2 atanh(s) with s = e / (2 + e), as s and a polynomial in t = s^2 <= 1/9. */
INLINE float NAME(log1p)(float e)
{
    float s = e / (2.0f + e);
    float t = s * s;
    float q = 0.121452072f; /* weighted least squares for (atanh(s) / s - 1) / t, error of the whole 1.2e-10 */
    q = __builtin_fmaf(q, t, 0.107151203f);
    q = __builtin_fmaf(q, t, 0.143083399f);
    q = __builtin_fmaf(q, t, 0.199994416f);
    q = __builtin_fmaf(q, t, 0.333333378f);
    return 2.0f * __builtin_fmaf(s * t, q, s);
}

/* A loop over the numbers u of a block. */
#define EACH(prepare, value_of, slope_of)                                                                              \
    if (slope != NULL)                                                                                                 \
        for (int64_t i = 0; i < size; i++) {                                                                           \
            float u = in[i];                                                                                           \
            prepare;                                                                                                   \
            out[i] = value_of;                                                                                         \
            slope[i] = slope_of;                                                                                       \
        }                                                                                                              \
    else                                                                                                               \
        for (int64_t i = 0; i < size; i++) {                                                                           \
            float u = in[i];                                                                                           \
            prepare;                                                                                                   \
            out[i] = value_of;                                                                                         \
        }                                                                                                              \
    break;

TARGET static void NAME(atom)(const convex_step *step, int64_t size, const float *restrict in, float *restrict out,
                              float *restrict slope)
{
    float a = (float)step->parameter;
    switch (step->operation) {
    case CONVEX_SOFTPLUS:
        EACH(float v = __builtin_fabsf(u); float e = NAME(exp)(-(v > 104.0f ? 104.0f : v)), (u > 0.0f ? u : 0.0f) + NAME(log1p)(e),
             (u < 0.0f ? e : 1.0f) / (1.0f + e))
    case CONVEX_LEAKY_RELU:
        EACH(, u > 0.0f ? u : a * u, u > 0.0f ? 1.0f : a)
    case CONVEX_ELU:
        EACH(int32_t n; float v = u < 0.0f ? u : 0.0f; float p = NAME(reduced_exp)(v < -104.0f ? -104.0f : v, &n);
             float e = NAME(scaled)(1.0f, n),
             u < 0.0f ? __builtin_fmaf(e, p, e - 1.0f) : u, NAME(scaled)(1.0f + p, n))
    case CONVEX_EXP:
        EACH(float v = u < -104.0f ? -104.0f : u; float e = NAME(exp)(v > 89.0f ? 89.0f : v), e, e)
    case CONVEX_SQUARE:
        EACH(, u * u, u + u)
    case CONVEX_SQUARED_LEAKY:
        EACH(float v = u > 0.0f ? u : a * u, v * v, (v + v) * (u > 0.0f ? 1.0f : a))
    case CONVEX_ABS:
        EACH(, __builtin_fabsf(u), u > 0.0f ? 1.0f : u < 0.0f ? -1.0f : u)
    }
}

#undef EACH

/* -------------------------------------------------------------------------------------------------------- sums */

#define EACH(term)                                                                                                     \
    for (int64_t row = 0; row < num_rows; row++) {                                                                     \
        const float *restrict a = first + row * width;                                                                 \
        const float *restrict b = second == NULL ? step->numbers : second + row * width;                               \
        float *restrict to = out + row * width;                                                                        \
        (void)b;                                                                                                       \
        if (step->accumulates)                                                                                         \
            for (int64_t i = 0; i < width; i++)                                                                        \
                to[i] += term;                                                                                         \
        else                                                                                                           \
            for (int64_t i = 0; i < width; i++)                                                                        \
                to[i] = term;                                                                                          \
    }                                                                                                                  \
    break;

TARGET static void NAME(sum)(const convex_step *step, int64_t num_rows, const float *first, const float *second,
                             float *out, float *slope)
{
    int64_t width = step->width;
    switch (step->operation) {
    case CONVEX_FILL:
        for (int64_t row = 0; row < num_rows; row++)
            for (int64_t i = 0; i < width; i++)
                out[row * width + i] = step->bias == NULL ? 0.0f : step->bias[i];
        break;
    case CONVEX_SUM:
        EACH(a[i])
    case CONVEX_SCALE:
        EACH(a[i] * b[i])
    case CONVEX_DIVIDE:
        EACH(a[i] / b[i])
    case CONVEX_TIMES:
        EACH(a[i] * b[i])
    case CONVEX_REST:
        EACH(a[i] * (1.0f - b[i]))
    case CONVEX_MAXIMUM:
        for (int64_t i = 0; i < num_rows * width; i++) {
            float a = first[i], b = second[i];
            int is_first = a >= b;
            out[i] = is_first || a != a ? a : b;
            if (slope != NULL)
                slope[i] = is_first ? 1.0f : 0.0f;
        }
        break;
    }
}

#undef EACH

/* -------------------------------------------------------------------------------------------------------- a block */

TARGET static void NAME(run)(const convex_step *steps, int64_t num_steps, int64_t num_rows, const float *input,
                             float *const *places, float *scratch, int64_t block_rows)
{
    for (const convex_step *step = steps; step < steps + num_steps; step++) {
        const int64_t numbers[4] = {step->first, step->second, step->out, step->slope};
        float *at[4];
        for (int i = 0; i < 4; i++)
            at[i] = numbers[i] >= 0                  ? scratch + numbers[i] * block_rows
                    : numbers[i] == CONVEX_INPUT     ? (float *)input
                    : numbers[i] == CONVEX_SCORE     ? places[0]
                    : numbers[i] == CONVEX_GRADIENT  ? places[1]
                                                     : NULL;
        if (step->operation == CONVEX_PRODUCT)
            NAME(product)(step, num_rows, at[0], at[1], at[2]);
        else if (step->operation == CONVEX_DOT)
            NAME(dots)(step, num_rows, at[0], at[2]);
        else if (step->operation >= CONVEX_SOFTPLUS)
            NAME(atom)(step, num_rows * step->width, at[0], at[2], at[3]);
        else
            NAME(sum)(step, num_rows, at[0], at[1], at[2], at[3]);
    }
}

#undef INLINE
#undef MAX_ROWS
#undef DOT_ROWS
#undef LINE
#undef UNROLLED
#undef TILE
#undef TILES
