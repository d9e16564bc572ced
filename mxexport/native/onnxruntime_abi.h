/* The part of onnxruntime's C interface that custom operators need, declared by hand: its packages bring no headers.

   OrtApi is a table of function pointers to which later versions only append, and OrtCustomOp a structure whose
   `version` says how much of it there is. A runtime that does not know API_VERSION gives no table. */
#ifndef MXEXPORT_ONNXRUNTIME_ABI_H
#define MXEXPORT_ONNXRUNTIME_ABI_H

#include <stddef.h>
#include <stdint.h>

#include "bits.h"

enum { API_VERSION = 17 }; /* onnxruntime 1.17, which brought KernelContext_ParallelFor */
enum { FLOAT = 1, UINT8 = 2, INT64 = 7 };
enum { REQUIRED = 0, OPTIONAL = 1 };
enum { FAIL = 1, INVALID_ARGUMENT = 2 };

enum {
    CreateStatus = 0,
    CreateCustomOpDomain = 26,
    CustomOpDomain_Add = 27,
    AddCustomOpDomain = 28,
    GetTensorMutableData = 51,
    GetDimensionsCount = 61,
    GetDimensions = 62,
    GetTensorTypeAndShape = 65,
    KernelInfoGetAttribute_float = 85,
    KernelInfoGetAttribute_int64 = 86,
    KernelContext_GetInputCount = 88,
    KernelContext_GetInput = 90,
    KernelContext_GetOutput = 91,
    ReleaseStatus = 93,
    ReleaseTensorTypeAndShapeInfo = 99,
    KernelInfoGetAttributeArray_int64 = 163,
    KernelContext_ParallelFor = 274,
};

typedef const void *const *Api;
typedef struct Status Status; /* NULL: all is well */

typedef struct {
    Api (*get_api)(uint32_t version);
    const char *(*version)(void);
} ApiBase;

typedef struct CustomOp CustomOp;
struct CustomOp {
    uint32_t version;
    void *(*create)(const CustomOp *, Api, const void *info);
    const char *(*name)(const CustomOp *);
    const char *(*provider)(const CustomOp *);
    int (*input_type)(const CustomOp *, size_t);
    size_t (*input_count)(const CustomOp *);
    int (*output_type)(const CustomOp *, size_t);
    size_t (*output_count)(const CustomOp *);
    void (*compute)(void *kernel, void *context);
    void (*destroy)(void *kernel);
    int (*input_kind)(const CustomOp *, size_t);
    int (*output_kind)(const CustomOp *, size_t);
    int (*input_memory)(const CustomOp *, size_t);
    int (*input_arity)(const CustomOp *);
    int (*input_homogeneity)(const CustomOp *);
    int (*output_arity)(const CustomOp *);
    int (*output_homogeneity)(const CustomOp *);
    Status *(*create_or_fail)(const CustomOp *, Api, const void *info, void **kernel);
    Status *(*compute_or_fail)(void *kernel, void *context);
    Status *(*infer_shape)(const CustomOp *, void *context);
    int (*start_version)(const CustomOp *);
    int (*end_version)(const CustomOp *);
};

/* What a slot of the table takes; all but the releases return a Status. */
#define CALL(api, slot, ...) (((Status * (*)(__VA_ARGS__)) (api)[slot]))

INLINE Status *failed(Api api, int code, const char *message) { return CALL(api, CreateStatus, int, const char *)(code, message); }
INLINE void release_status(Api api, Status *status) { ((void (*)(Status *))api[ReleaseStatus])(status); }

/* --- tensors ----------------------------------------------------------------------------------------------------- */

enum { MAX_RANK = 16 };

typedef struct {
    const void *data; /* NULL: an optional input that is not there */
    int64_t dims[MAX_RANK];
    size_t rank;
} Tensor;

INLINE Status *read_input(Api api, void *context, size_t index, Tensor *t) {
    size_t count = 0;
    void *value = NULL, *info = NULL, *data = NULL;
    Status *status = CALL(api, KernelContext_GetInputCount, void *, size_t *)(context, &count);
    if (status || index >= count) return status;
    if ((status = CALL(api, KernelContext_GetInput, void *, size_t, void **)(context, index, &value)) || !value) return status;
    if ((status = CALL(api, GetTensorTypeAndShape, void *, void **)(value, &info))) return status;
    status = CALL(api, GetDimensionsCount, void *, size_t *)(info, &t->rank);
    if (!status && t->rank > MAX_RANK) status = failed(api, INVALID_ARGUMENT, "mxexport.ops: a tensor of more than 16 dimensions");
    if (!status) status = CALL(api, GetDimensions, void *, int64_t *, size_t)(info, t->dims, t->rank);
    ((void (*)(void *))api[ReleaseTensorTypeAndShapeInfo])(info);
    if (!status) status = CALL(api, GetTensorMutableData, void *, void **)(value, &data);
    t->data = data ? data : t; /* an empty tensor may have no memory */
    return status;
}

/* Output number `index`, of a shape; `data` is the address of a pointer to its elements. */
INLINE Status *make_output(Api api, void *context, size_t index, const Tensor *shape, void *data) {
    void *value = NULL, *memory = NULL;
    Status *status = CALL(api, KernelContext_GetOutput, void *, size_t, const int64_t *, size_t, void **)(context, index, shape->dims, shape->rank, &value);
    if (!status) status = CALL(api, GetTensorMutableData, void *, void **)(value, &memory);
    memcpy(data, &memory, sizeof memory);
    return status;
}

#endif
