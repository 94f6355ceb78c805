// cuBLASLt without a GPU: the functions of libcublasLt that Tintype calls, by its documentation.
// Products are computed in double when the stream comes to them, by every algorithm alike. Each
// algorithm fills the workspace that it asked for, so that a workspace that is something else's shows.
//
// What Hopper GPUs refuse is refused: f8 other than transposed times plain, sizes or addresses that
// are no multiples of 16, a result in codes without its factor or with vectors of scales.

#include <map>
#include <utility>

#include "numbers.h"

extern "C" {
int simulated_enqueue(void* stream, const char* name, void (*act)(void*), void* context);
void simulated_expect(uintptr_t address, size_t bytes, const char* what);
}

enum Status : int { SUCCESS = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum Attribute : int {
    TRANSPOSE_A = 3, TRANSPOSE_B = 4, EPILOGUE = 7, BIAS = 8, SCALE_A = 17, SCALE_B = 18,
    SCALE_C = 19, SCALE_D = 20, FAST = 25, BIAS_TYPE = 26, MODE_A = 31, MODE_B = 32,
};
enum { EPILOGUE_PLAIN = 1, EPILOGUE_BIAS = 4, EPILOGUE_GELU = 32, OUTER_VECTORS = 3 };

struct Values {
    std::map<int, uint64_t> set;
    uint64_t operator[](int name) const {
        auto found = set.find(name);
        return found == set.end() ? 0 : found->second;
    }
    int put(int name, const void* value, size_t bytes) {
        if (bytes > 8) {
            return INVALID_VALUE;
        }
        uint64_t wide = 0;
        memcpy(&wide, value, bytes);
        set[name] = wide;
        return SUCCESS;
    }
};
struct Matrix {
    Type type;
    uint64_t rows, columns;
    int64_t leading;
    Values more;
    int64_t batch() const { return more.set.count(5) ? (int32_t)more[5] : 1; }
    int64_t stride() const { return (int64_t)more[6]; }
    size_t size() const { return type == F32 ? 4 : type == F8 ? 1 : 2; }
    size_t bytes() const {
        return ((batch() - 1) * stride() + (columns - 1) * leading + rows) * size();
    }
};
struct Algorithm { uint64_t data[8]; };
struct Result {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};
static constexpr uint64_t MARK = 0x54494e54;
static constexpr size_t WORKSPACES[] = {0, 1 << 16, 1 << 20};

struct Product {
    Values operation;
    Matrix a, b, d;
    double alpha;
    uintptr_t a_at, b_at, d_at, workspace;
    size_t workspace_bytes;

    size_t inner() const { return operation[TRANSPOSE_A] ? a.rows : a.columns; }
    double left(size_t row, size_t k, size_t batch) const {
        const size_t at = operation[TRANSPOSE_A] ? row * a.leading + k : k * a.leading + row;
        return value_at(a_at, a.type, batch * a.stride() + at);
    }
    double right(size_t k, size_t column, size_t batch) const {
        const size_t at = operation[TRANSPOSE_B] ? k * b.leading + column : column * b.leading + k;
        return value_at(b_at, b.type, batch * b.stride() + at);
    }
    double scale(int pointer, int mode, size_t at) const {
        const uintptr_t address = operation[pointer];
        const size_t place = operation[mode] == OUTER_VECTORS ? at : 0;
        return address ? ((const float*)address)[place] : 1;
    }
    void expect() const {
        simulated_expect(a_at, a.bytes(), "a product reads");
        simulated_expect(b_at, b.bytes(), "a product reads");
        simulated_expect(d_at, d.bytes(), "a product writes");
        if (workspace_bytes) {
            simulated_expect(workspace, workspace_bytes, "a product's workspace:");
        }
        const bool is_vector = operation[MODE_A] == OUTER_VECTORS;
        for (auto [pointer, count] : {std::pair{SCALE_A, d.rows}, {SCALE_B, d.columns}}) {
            if (operation[pointer]) {
                simulated_expect(operation[pointer], is_vector ? 4 * count : 4, "a scale:");
            }
        }
        if (operation[SCALE_D]) {
            simulated_expect(operation[SCALE_D], 4, "a factor:");
        }
        if (operation[EPILOGUE] & EPILOGUE_BIAS) {
            const Matrix bias = {(Type)operation[BIAS_TYPE], d.rows, 1, (int64_t)d.rows, {}};
            simulated_expect(operation[BIAS], bias.bytes(), "a bias:");
        }
    }
    double element(size_t row, size_t column, size_t batch) const {
        double sum = 0;
        for (size_t k = 0; k < inner(); ++k) {
            sum += left(row, k, batch) * right(k, column, batch);
        }
        sum *= alpha * scale(SCALE_A, MODE_A, row) * scale(SCALE_B, MODE_B, column);
        if (operation[EPILOGUE] & EPILOGUE_BIAS) {
            sum += value_at(operation[BIAS], (Type)operation[BIAS_TYPE], row);
        }
        if (operation[EPILOGUE] & EPILOGUE_GELU) {
            sum *= 0.5 * (1 + std::tanh(0.7978845608028654 * (sum + 0.044715 * sum * sum * sum)));
        }
        return d.type == F8 ? sum * scale(SCALE_D, -1, 0) : sum;
    }
    void run() const {
        expect();
        memset((void*)workspace, 0xff, workspace_bytes);
        for (int64_t batch = 0; batch < d.batch(); ++batch) {
            for (size_t column = 0; column < d.columns; ++column) {
                for (size_t row = 0; row < d.rows; ++row) {
                    const size_t at = batch * d.stride() + column * d.leading + row;
                    put_at(d_at, d.type, at, element(row, column, batch));
                }
            }
        }
    }
};

// What the library would say of it.
static int judge(const Values& operation, const Matrix& a, const Matrix& b, const Matrix& c,
    const Matrix& d) {
    const bool ta = operation[TRANSPOSE_A], tb = operation[TRANSPOSE_B];
    const uint64_t m = ta ? a.columns : a.rows, k = ta ? a.rows : a.columns;
    const uint64_t n = tb ? b.rows : b.columns, other_k = tb ? b.columns : b.rows;
    const bool is_shaped = m == d.rows && n == d.columns && k == other_k && c.rows == d.rows
        && c.columns == d.columns && a.batch() == d.batch() && b.batch() == d.batch();
    const bool fits = a.leading >= (int64_t)a.rows && b.leading >= (int64_t)b.rows
        && d.leading >= (int64_t)d.rows;
    if (!is_shaped || !fits) {
        return INVALID_VALUE;
    }
    const bool has_bias = operation[EPILOGUE] & EPILOGUE_BIAS;
    if (has_bias && !operation[BIAS]) {
        return INVALID_VALUE;
    }
    if (a.type != F8 && b.type != F8) {
        const bool is_plain = a.type == b.type && c.type == d.type && d.type != F8
            && (d.type == a.type || d.type == F32)
            && !(operation[SCALE_A] || operation[SCALE_B] || operation[SCALE_D]);
        return is_plain ? SUCCESS : NOT_SUPPORTED;
    }
    const bool is_turned = a.type == F8 && b.type == F8 && ta && !tb;
    const bool is_aligned = k % 16 == 0 && m % 16 == 0 && a.leading % 16 == 0 && b.leading % 16 == 0
        && d.leading * d.size() % 16 == 0;
    const Type half = d.type == F8 ? c.type : d.type;
    const bool is_typed = (half == F16 || half == BF16 || (half == F32 && d.type == F32))
        && (d.type == F8 || c.type == d.type);
    const Type bias = (Type)operation[BIAS_TYPE];
    const bool is_biased = !has_bias || bias == (half == F32 ? BF16 : half);
    const bool are_vectors = operation[MODE_A] == OUTER_VECTORS;
    const bool is_scaled = operation[SCALE_A] && operation[SCALE_B]
        && operation[MODE_A] == operation[MODE_B] && (operation[SCALE_D] != 0) == (d.type == F8)
        && !(are_vectors && d.type == F8) && !operation[SCALE_C];
    return is_turned && is_aligned && is_typed && is_biased && is_scaled ? SUCCESS : NOT_SUPPORTED;
}

extern "C" {

size_t cublasLtGetVersion() { return 130100; }
int cublasLtCreate(void** handle) { *handle = (void*)3; return SUCCESS; }
int cublasLtDestroy(void*) { return SUCCESS; }
int cublasLtMatmulDescCreate(Values** made, int compute, int scale) {
    *made = new Values;
    (*made)->set[EPILOGUE] = EPILOGUE_PLAIN;
    return compute == 68 && scale == F32 ? SUCCESS : NOT_SUPPORTED;
}
int cublasLtMatmulDescDestroy(Values* values) { delete values; return SUCCESS; }
int cublasLtMatmulDescSetAttribute(Values* values, int name, const void* value, size_t bytes) {
    const bool is_pointer = name == BIAS || (name >= SCALE_A && name <= SCALE_D);
    const size_t expected = is_pointer ? 8 : name == FAST ? 1 : 4;
    return bytes == expected ? values->put(name, value, bytes) : INVALID_VALUE;
}
int cublasLtMatrixLayoutCreate(Matrix** made, int type, uint64_t rows, uint64_t columns, int64_t leading) {
    *made = new Matrix{(Type)type, rows, columns, leading, {}};
    return SUCCESS;
}
int cublasLtMatrixLayoutDestroy(Matrix* matrix) { delete matrix; return SUCCESS; }
int cublasLtMatrixLayoutSetAttribute(Matrix* matrix, int name, const void* value, size_t bytes) {
    const size_t expected = name == 5 ? 4 : 8;
    return bytes == expected ? matrix->more.put(name, value, bytes) : INVALID_VALUE;
}
int cublasLtMatmulPreferenceCreate(Values** made) { *made = new Values; return SUCCESS; }
int cublasLtMatmulPreferenceDestroy(Values* values) { delete values; return SUCCESS; }
int cublasLtMatmulPreferenceSetAttribute(Values* values, int name, const void* value, size_t bytes) {
    return bytes == (name == 1 ? 8u : 4u) ? values->put(name, value, bytes) : INVALID_VALUE;
}
int cublasLtMatmulAlgoGetHeuristic(void*, const Values* operation, const Matrix* a, const Matrix* b,
    const Matrix* c, const Matrix* d, const Values* preference, int wanted, Result* results,
    int* found) {
    *found = 0;
    if (const int status = judge(*operation, *a, *b, *c, *d)) {
        return status;
    }
    for (size_t number = 0; number < 3 && *found < wanted; ++number) {
        if (WORKSPACES[number] <= (*preference)[1]) {
            results[(*found)++] = {{{MARK, number}}, WORKSPACES[number], SUCCESS, 1, {}};
        }
    }
    return SUCCESS;
}
int cublasLtMatmulAlgoCheck(void*, const Values* operation, const Matrix* a, const Matrix* b,
    const Matrix* c, const Matrix* d, const Algorithm* algorithm, Result* result) {
    if (const int status = judge(*operation, *a, *b, *c, *d)) {
        return status;
    }
    if (algorithm->data[0] != MARK || algorithm->data[1] > 2) {
        return INVALID_VALUE;
    }
    result->workspace = WORKSPACES[algorithm->data[1]];
    result->state = SUCCESS;
    return SUCCESS;
}
int cublasLtMatmul(void*, const Values* operation, const float* alpha, uintptr_t a_at,
    const Matrix* a, uintptr_t b_at, const Matrix* b, const float* beta, uintptr_t c_at,
    const Matrix* c, uintptr_t d_at, const Matrix* d, const Algorithm* algorithm,
    uintptr_t workspace, size_t workspace_bytes, void* stream) {
    if (const int status = judge(*operation, *a, *b, *c, *d)) {
        return status;
    }
    const size_t needed = algorithm->data[1] < 3 ? WORKSPACES[algorithm->data[1]] : SIZE_MAX;
    const bool is_known = algorithm->data[0] == MARK && workspace_bytes >= needed;
    const size_t alignment = a->type == F8 ? 16 : a->size();
    const bool is_aligned = a_at % alignment == 0 && b_at % alignment == 0 && d_at % d->size() == 0
        && (needed == 0 || workspace % 16 == 0);
    const bool is_alone = *beta == 0 && (c_at == d_at || (c_at == 0 && d->type == F8));
    if (!is_known || !is_aligned || !is_alone) {
        return INVALID_VALUE;
    }
    auto* product = new Product{*operation, *a, *b, *d, *alpha, a_at, b_at, d_at, workspace, needed};
    // It may run many times, in a graph; so it stays.
    const auto run = [](void* product) { ((const Product*)product)->run(); };
    return simulated_enqueue(stream, "a product", run, product) ? 14 : SUCCESS;
}

} // extern "C"
