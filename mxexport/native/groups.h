/* How the operators go over a tensor: group by group, in pieces that fit the first-level cache and any number of threads.

   A contiguous tensor is [outer, length, inner]; groups of group_size run along `length`, the last one may be short. A
   contracted tensor is [outer, n, inner]. A piece is a group's rows in up to COLUMNS neighbouring places of `inner`. */
#ifndef MXEXPORT_GROUPS_H
#define MXEXPORT_GROUPS_H

#include "bits.h"

enum { COLUMNS = 1024 };

typedef struct {
    int64_t outer, length, inner, group_size, n, chunks;
} View;

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE View view_of(int64_t outer, int64_t length, int64_t inner, int64_t group_size) {
    return (View){outer, length, inner, group_size, (length + group_size - 1) / group_size, (inner + COLUMNS - 1) / COLUMNS};
}

INLINE int64_t pieces(const View *v) { return v->outer * v->n * v->chunks; }

typedef struct {
    int64_t rows, cols; /* of this piece */
    int64_t at;         /* its first element: rows are `inner` apart */
    int64_t scale_at;   /* its first entry in contracted tensors */
    int64_t group, chunk, first; /* the group's number, within its row of groups too, and its first element */
    int64_t of_row;
} Piece;

INLINE void place(const View *v, Piece *p) {
    p->rows = smaller(v->length - p->of_row * v->group_size, v->group_size);
    p->cols = smaller(v->inner - p->chunk * COLUMNS, COLUMNS);
    p->at = p->first + p->chunk * COLUMNS;
    p->scale_at = p->group * v->inner + p->chunk * COLUMNS;
}

INLINE Piece piece(const View *v, int64_t number) {
    Piece p = {0};
    p.group = number / v->chunks, p.chunk = number % v->chunks, p.of_row = p.group % v->n;
    p.first = (p.group / v->n * v->length + p.of_row * v->group_size) * v->inner;
    place(v, &p);
    return p;
}

INLINE void next(const View *v, Piece *p) { /* without the divisions of `piece`: groups of 32 are short */
    if (++p->chunk == v->chunks) {
        p->chunk = 0, p->group++;
        p->first += p->rows * v->inner;
        if (++p->of_row == v->n) p->of_row = 0;
    }
    place(v, p);
}

#endif
