/* Rows of a product against a panel of its columns, in numbers of type T in which every sum of a block is exact.
   Included once for each T, as NAME; WHOLE makes an int64_t of a sum. A panel has TILES tiles of two vectors of columns:
   the sums of four rows with a tile fit the registers, and the numbers of these rows are decoded once for all tiles. */

typedef T NAME(Vector) __attribute__((vector_size(VECTOR), aligned(sizeof(T)), may_alias));
enum { NAME(TILE) = 2 * VECTOR / sizeof(T), NAME(COLUMNS) = TILES * NAME(TILE) };
typedef NAME(Vector) NAME(Sums)[ROWS][2];

/* Adds what `length` places bring to the sums of four rows with a tile. */
INLINE void NAME(dot)(const T (*x)[CHUNK], const T *w, int64_t length, NAME(Vector) (*sums)[2]) {
    NAME(Vector) a0 = sums[0][0], a1 = sums[1][0], a2 = sums[2][0], a3 = sums[3][0];
    NAME(Vector) b0 = sums[0][1], b1 = sums[1][1], b2 = sums[2][1], b3 = sums[3][1];
    for (int64_t i = 0; i < length; i++, w += NAME(TILE)) {
        const NAME(Vector) *v = (const NAME(Vector) *)w, v0 = v[0], v1 = v[1];
        const T x0 = x[0][i], x1 = x[1][i], x2 = x[2][i], x3 = x[3][i];
        a0 += x0 * v0, b0 += x0 * v1, a1 += x1 * v0, b1 += x1 * v1;
        a2 += x2 * v0, b2 += x2 * v1, a3 += x3 * v0, b3 += x3 * v1;
    }
    sums[0][0] = a0, sums[1][0] = a1, sums[2][0] = a2, sums[3][0] = a3;
    sums[0][1] = b0, sums[1][1] = b1, sums[2][1] = b2, sums[3][1] = b3;
}

/* The weights of a panel, [tiles, length, TILE], and their scales less the offset, [tiles, blocks, TILE]: places behind the
   last column repeat its scale and hold zeros. */
static void NAME(pack)(const Panel *p, T *w, int64_t *scales) {
    for (int64_t c = 0; c < ceil_div(p->cols, NAME(TILE)) * NAME(TILE); c++) {
        const int64_t row = least(c, p->cols - 1), tile = c / NAME(TILE), place = c % NAME(TILE);
        const uint8_t *codes = p->w_codes + row * p->w_step, *given = p->w_scale + row * p->w_scale_step;
        T *to = w + tile * p->length * NAME(TILE) + place;
        for (int64_t i = 0; i < p->length; i++) to[i * NAME(TILE)] = c < p->cols ? (T)p->w_values[codes[i]] : (T)0;
        for (int64_t b = 0; b < p->blocks; b++) scales[(tile * p->blocks + b) * NAME(TILE) + place] = given[b] - p->scale_offset;
    }
}

/* Moves a row's sums of a block to their place and adds them. Returns 1 where a sum that is not 0 has no place. */
INLINE int NAME(add_block)(const NAME(Vector) *sums, int64_t scale, const int64_t *scales, int64_t *total) {
    T sum[NAME(TILE)];
    int64_t low = INT64_MAX, high = INT64_MIN;
    memcpy(sum, sums, sizeof sum);
    for (int c = 0; c < NAME(TILE); c++) low = least(low, scales[c]), high = most(high, scales[c]);
    if (scale + low >= 0 && scale + high <= 62) {
        for (int c = 0; c < NAME(TILE); c++) total[c] = plus(total[c], left(WHOLE(sum[c]), scale + scales[c]));
        return 0;
    }
    int odd = 0;
    for (int c = 0; c < NAME(TILE); c++) {
        const int64_t shift = scale + scales[c];
        if (shift >= 0 && shift <= 62) total[c] = plus(total[c], left(WHOLE(sum[c]), shift));
        else odd |= sum[c] != 0;
    }
    return odd;
}

/* Four rows from `first` on, of which `rows` are there. */
static int NAME(four_rows)(const Panel *p, const T *x_values, int64_t first, int64_t rows, const T *w, const int64_t *scales) {
    const int64_t tiles = ceil_div(p->cols, NAME(TILE));
    int64_t total[ROWS][NAME(COLUMNS)];
    T x[ROWS][CHUNK];
    NAME(Sums) sums[TILES];
    int odd = 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < tiles * NAME(TILE); c++) total[r][c] = p->bias && c < p->cols ? p->bias[c] : 0;
    for (int64_t b = 0; b < p->blocks; b++) {
        const int64_t begin = b * p->group, end = least(p->length, begin + p->group);
        memset(sums, 0, (size_t)tiles * sizeof *sums);
        for (int64_t at = begin; at < end; at += CHUNK) {
            const int64_t length = least(CHUNK, end - at);
            for (int64_t r = 0; r < ROWS; r++) {
                const uint8_t *codes = p->x_codes + (first + least(r, rows - 1)) * p->x_step + at;
                for (int64_t i = 0; i < length; i++) x[r][i] = x_values[codes[i]];
            }
            for (int64_t t = 0; t < tiles; t++) NAME(dot)((const T(*)[CHUNK])x, w + (t * p->length + at) * NAME(TILE), length, sums[t]);
        }
        for (int64_t r = 0; r < rows; r++)
            for (int64_t t = 0; t < tiles; t++)
                odd |= NAME(add_block)(sums[t][r], p->x_scale[(first + r) * p->x_scale_step + b], scales + (t * p->blocks + b) * NAME(TILE),
                                       total[r] + t * NAME(TILE));
    }
    for (int64_t r = 0; r < rows; r++) memcpy(p->y + (first + r) * p->y_step, total[r], (size_t)p->cols * sizeof **total);
    return odd;
}

/* Returns 1 where a sum has no place, or memory is short. */
static int NAME(panel)(const Panel *p) {
    T *w = malloc((size_t)(p->length * NAME(COLUMNS)) * sizeof *w + 1), x_values[CODES];
    int64_t *scales = malloc((size_t)(p->blocks * NAME(COLUMNS)) * sizeof *scales + 1);
    int odd = !w || !scales;
    if (!odd) {
        NAME(pack)(p, w, scales);
        for (int c = 0; c < CODES; c++) x_values[c] = (T)p->x_values[c];
        for (int64_t first = 0; first < p->rows; first += ROWS) odd |= NAME(four_rows)(p, x_values, first, least(ROWS, p->rows - first), w, scales);
    }
    free(w);
    free(scales);
    return odd;
}
