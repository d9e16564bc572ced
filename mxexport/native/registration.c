/* The operators of domain mxexport.ops, for onnxruntime: the attributes of their nodes, and their registration.

   Compiled with the other files on the machine it runs on by building.py; `RegisterCustomOps` is what onnxruntime looks
   for in the library. */

#include <stdio.h>
#include <stdlib.h>

#include "operators.h"

static Operator *const TABLES[] = {QUANTIZATION, PRODUCTS, CODERS, WIDE_VALUES, WIDE_FUNCTIONS, MOVERS};
enum { TABLE_COUNT = sizeof TABLES / sizeof *TABLES };

/* --- nodes' attributes ----------------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    size_t at;
    int64_t low, high;
} Field;

static const Field INTEGERS[] = {
#define FIELD(name, ...) {#name, offsetof(Kernel, name), __VA_ARGS__},
    NUMBERS(FIELD)
#undef FIELD
};
static const Field REALS[] = {
#define FIELD(name) {#name, offsetof(Kernel, name), 0, 0},
    FLOATS(FIELD)
#undef FIELD
};
static const Field ARRAYS[] = {
#define FIELD(name, ...) {#name, offsetof(Kernel, name), __VA_ARGS__},
    LISTS(FIELD)
#undef FIELD
};

static const Field *find(const Field *fields, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++)
        if (!strcmp(name, fields[i].name)) return &fields[i];
    return NULL;
}
#define FIND(fields, name) find(fields, sizeof fields / sizeof *fields, name)

static Status *within(const Kernel *k, const Field *field, int64_t value) {
    if (value >= field->low && value <= field->high) return NULL;
    char message[160];
    snprintf(message, sizeof message, "mxexport.ops: attribute %s is %lld; expected %lld to %lld", field->name, (long long)value,
             (long long)field->low, (long long)field->high);
    return wrong(k, message);
}

static Status *missing(const Kernel *k, const char *name, Status *status) {
    char message[160];
    snprintf(message, sizeof message, "mxexport.ops: attribute %s is missing, of another type, or longer than 16", name);
    release_status(k->api, status);
    return wrong(k, message);
}

static Status *read_attribute(Kernel *k, const void *info, const char *name) {
    const Field *number = FIND(INTEGERS, strcmp(name, "signed") ? name : "is_signed"), *real = FIND(REALS, name), *list = FIND(ARRAYS, name);
    const Field *field = number ? number : real ? real : list;
    if (!field) return wrong(k, "mxexport.ops: an attribute that no kernel reads");
    void *place = (char *)k + field->at;
    Tensor one = {.rank = 1}, *found = list ? place : &one;
    Status *status;
    if (list) found->rank = MAX_RANK;
    if (number) status = CALL(k->api, KernelInfoGetAttribute_int64, const void *, const char *, int64_t *)(info, name, place);
    else if (real) status = CALL(k->api, KernelInfoGetAttribute_float, const void *, const char *, float *)(info, name, place);
    else status = CALL(k->api, KernelInfoGetAttributeArray_int64, const void *, const char *, int64_t *, size_t *)(info, name, found->dims, &found->rank);
    if (status) return missing(k, name, status);
    if (number) memcpy(found->dims, place, sizeof *found->dims);
    for (size_t i = 0; !real && !status && i < found->rank; i++) status = within(k, field, found->dims[i]);
    return status;
}

static Status *create(const CustomOp *op, Api api, const void *info, void **made) {
    const Operator *o = (const Operator *)op;
    Kernel *k = calloc(1, sizeof *k);
    if (!k) return failed(api, FAIL, "mxexport.ops: no memory");
    k->api = api;
    Status *status = NULL;
    for (size_t i = 0; i < MOST_ATTRIBUTES && o->attributes[i] && !status; i++) status = read_attribute(k, info, o->attributes[i]);
    if (!status && o->prepare) status = o->prepare(k);
    if (status) free(k);
    else *made = k;
    return status;
}

/* --- registration ---------------------------------------------------------------------------------------------- */

static size_t count_of(const int *types, size_t limit) {
    size_t count = 0;
    while (count < limit && types[count]) count++;
    return count;
}

static const char *name_of(const CustomOp *op) { return ((const Operator *)op)->name; }
static const char *provider(const CustomOp *op) { return (void)op, NULL; }
static int input_type(const CustomOp *op, size_t i) { return ((const Operator *)op)->inputs[i]; }
static size_t input_count(const CustomOp *op) { return count_of(((const Operator *)op)->inputs, MOST_INPUTS); }
static int output_type(const CustomOp *op, size_t i) { return ((const Operator *)op)->outputs[i]; }
static size_t output_count(const CustomOp *op) { return count_of(((const Operator *)op)->outputs, MOST_OUTPUTS); }
static int input_kind(const CustomOp *op, size_t i) { return i >= input_count(op) - ((const Operator *)op)->optional ? OPTIONAL : REQUIRED; }
static int output_kind(const CustomOp *op, size_t i) { return (void)op, (void)i, REQUIRED; }
static int input_memory(const CustomOp *op, size_t i) { return (void)op, (void)i, 0; }

PUBLIC Status *RegisterCustomOps(void *options, const ApiBase *base);
PUBLIC const char *mx_operator_name(int64_t i);

/* The name of operator i, NULL behind the last one. */
PUBLIC const char *mx_operator_name(int64_t i) {
    for (size_t t = 0; t < TABLE_COUNT; t++)
        for (const Operator *o = TABLES[t]; o->name; o++)
            if (!i--) return o->name;
    return NULL;
}

/* Called by onnxruntime's `SessionOptions.register_custom_ops_library`. */
PUBLIC Status *RegisterCustomOps(void *options, const ApiBase *base) {
    Api api = base->get_api(API_VERSION);
    if (!api) return failed(base->get_api(1), FAIL, "mxexport's operators need onnxruntime 1.17 or later");
    void *domain = NULL;
    Status *status = CALL(api, CreateCustomOpDomain, const char *, void **)("mxexport.ops", &domain);
    for (size_t t = 0; t < TABLE_COUNT; t++)
        for (Operator *o = TABLES[t]; o->name && !status; o++) {
            o->op = (CustomOp){.version = API_VERSION, .name = name_of, .provider = provider, .input_type = input_type, .input_count = input_count,
                               .output_type = output_type, .output_count = output_count, .destroy = free, .input_kind = input_kind,
                               .output_kind = output_kind, .input_memory = input_memory, .create_or_fail = create, .compute_or_fail = o->compute};
            status = CALL(api, CustomOpDomain_Add, void *, const CustomOp *)(domain, &o->op);
        }
    return status ? status : CALL(api, AddCustomOpDomain, void *, void *)(options, domain);
}
