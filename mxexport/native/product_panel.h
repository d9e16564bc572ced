/* Rows of a product against one panel of its columns, in numbers of type T in which every sum of a block is exact.
   Included once for each T, as NAME. */

enum { NAME(PER) = 64 / sizeof(T), NAME(COLUMNS) = 4 * NAME(PER) };
typedef T NAME(Vector) __attribute__((vector_size(64), aligned(sizeof(T)), may_alias));

/* Sums of a block for four rows: `x` [4][CHUNK], `w` [length, COLUMNS]. */
INLINE void NAME(dot)(const T (*x)[CHUNK], const T *w, int64_t length, NAME(Vector) (*sums)[4]) {
#define ROW(r) NAME(Vector) a##r##0 = sums[r][0], a##r##1 = sums[r][1], a##r##2 = sums[r][2], a##r##3 = sums[r][3]
    ROW(0); ROW(1); ROW(2); ROW(3);
#undef ROW
    for (int64_t i = 0; i < length; i++, w += NAME(COLUMNS)) {
        const NAME(Vector) *v = (const NAME(Vector) *)w;
        const NAME(Vector) w0 = v[0], w1 = v[1], w2 = v[2], w3 = v[3];
#define ROW(r) { const T one = x[r][i]; a##r##0 += one * w0; a##r##1 += one * w1; a##r##2 += one * w2; a##r##3 += one * w3; }
        ROW(0) ROW(1) ROW(2) ROW(3)
#undef ROW
    }
#define ROW(r) sums[r][0] = a##r##0, sums[r][1] = a##r##1, sums[r][2] = a##r##2, sums[r][3] = a##r##3
    ROW(0); ROW(1); ROW(2); ROW(3);
#undef ROW
}

static int NAME(panel)(const Panel *p) {
    enum { WIDE = NAME(COLUMNS) };
    T *w = malloc((size_t)(p->length * WIDE) * sizeof *w + 64);
    int64_t *w_scale = malloc((size_t)(p->blocks * WIDE) * sizeof *w_scale + 64);
    if (!w || !w_scale) return free(w), free(w_scale), 1;
    int odd = 0;
    for (int64_t c = 0; c < WIDE; c++) { /* places behind the last column repeat its scale and hold zeros */
        const int64_t row = least(c, p->cols - 1);
        const uint8_t *codes = p->w_codes + row * p->w_step, *scales = p->w_scale + row * p->w_scale_step;
        for (int64_t i = 0; i < p->length; i++) w[i * WIDE + c] = c < p->cols ? (T)p->w_values[codes[i]] : (T)0;
        for (int64_t b = 0; b < p->blocks; b++) w_scale[b * WIDE + c] = scales[b] - p->scale_offset;
    }
    for (int64_t first = 0; first < p->rows; first += 4) {
        const int64_t rows = least(4, p->rows - first);
        int64_t total[4][WIDE];
        for (int64_t r = 0; r < 4; r++)
            for (int64_t c = 0; c < WIDE; c++) total[r][c] = p->bias && c < p->cols ? p->bias[c] : 0;
        for (int64_t b = 0; b < p->blocks; b++) {
            const int64_t begin = b * p->group, end = least(p->length, begin + p->group);
            NAME(Vector) sums[4][4] = {{{0}}};
            for (int64_t at = begin; at < end; at += CHUNK) {
                T x[4][CHUNK];
                const int64_t length = least(CHUNK, end - at);
                for (int64_t r = 0; r < 4; r++) {
                    const uint8_t *codes = p->x_codes + (first + least(r, rows - 1)) * p->x_step + at;
                    for (int64_t i = 0; i < length; i++) x[r][i] = (T)p->x_values[codes[i]];
                }
                NAME(dot)((const T(*)[CHUNK])x, w + at * WIDE, length, sums);
            }
            for (int64_t r = 0; r < rows; r++) {
                const int64_t scale = p->x_scale[(first + r) * p->x_scale_step + b], *other = w_scale + b * WIDE;
                T sum[WIDE];
                memcpy(sum, sums[r], sizeof sum);
                int64_t outside = 0;
                for (int64_t c = 0; c < WIDE; c++) outside |= (scale + other[c]) | (62 - scale - other[c]);
                if (outside < 0) { /* a shift below 0 or above 62 has a meaning where there is nothing to shift */
                    for (int64_t c = 0; c < WIDE; c++) {
                        const int64_t shift = scale + other[c];
                        if (shift >= 0 && shift <= 62) total[r][c] = plus(total[r][c], left((int64_t)sum[c], shift));
                        else odd |= sum[c] != 0;
                    }
                    continue;
                }
                for (int64_t c = 0; c < WIDE; c++) total[r][c] = plus(total[r][c], left((int64_t)sum[c], scale + other[c]));
            }
        }
        for (int64_t r = 0; r < rows; r++) memcpy(p->y + (first + r) * p->y_step, total[r], (size_t)p->cols * sizeof **total);
    }
    return free(w), free(w_scale), odd;
}
