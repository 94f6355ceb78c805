// cuDNN without a GPU: the functions of libcudnn that Tintype calls, by its documentation. A graph is
// computed operation by operation when the stream comes to it, in double, rounded to the dtype of each
// tensor. Engines fill the workspace that they asked for.
//
// Descriptors want what the library wants: attributes first, then to be finalized, and parts that
// were finalized before. Addresses must be given for every tensor that is neither virtual nor a value.

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "numbers.h"

extern "C" {
int simulated_enqueue(void* stream, const char* name, void (*act)(void*), void* context);
void simulated_expect(uintptr_t address, size_t bytes, const char* what);
}

enum Status : int { SUCCESS = 0, BAD_PARAM = 2000, NOT_FINALIZED = 2003, NOT_SUPPORTED = 3000 };
enum Kind : int {
    CONFIGURATION = 3, HEURISTIC = 4, PLAN = 5, CONVOLUTION = 10, POINTWISE = 13, GRAPH = 15,
    TENSOR = 17, MATMUL = 19, REDUCTION = 22, ATTENTION = 41,
};
enum Name : int {
    POINTWISE_MODE = 0, POINTWISE_AXIS = 9, STRIDES = 103, PADDINGS = 105, HEURISTIC_MODE = 200,
    HEURISTIC_GRAPH = 201, HEURISTIC_RESULTS = 202, CONFIGURATION_ENGINE = 300, PLAN_CONFIGURATION = 401,
    PLAN_WORKSPACE = 402, CONVOLUTION_SETTING = 702, CONVOLUTION_W = 703, CONVOLUTION_X = 704,
    CONVOLUTION_Y = 705, POINTWISE_SETTING = 750, POINTWISE_X = 751, POINTWISE_B = 752,
    POINTWISE_Y = 753, POINTWISE_T = 758, GRAPH_OPERATIONS = 801, TENSOR_TYPE = 901, TENSOR_DIMS = 902,
    TENSOR_STRIDES = 903, TENSOR_ID = 906, TENSOR_IS_VIRTUAL = 907, TENSOR_IS_VALUE = 908,
    PACK_IDS = 1000, PACK_POINTERS = 1001, PACK_WORKSPACE = 1003, ENGINE_INDEX = 1301,
    ENGINE_NUMERICAL = 1303, ENGINE_BEHAVIOR = 1305, MATMUL_A = 1520, MATMUL_B = 1521, MATMUL_C = 1522,
    REDUCTION_OPERATOR = 1600, REDUCTION_X = 1610, REDUCTION_Y = 1611, REDUCTION_SETTING = 1612,
    ATTENTION_Q = 2800, ATTENTION_K = 2801, ATTENTION_V = 2802, ATTENTION_O = 2803, ATTENTION_SCALE = 2805,
};
static constexpr int DESCRIPTOR_TYPE = 15;
static constexpr size_t WORKSPACES[] = {0, 1 << 16};

// What a descriptor was given. A graph keeps copies of its parts, so it may outlive them.
struct Object {
    int kind;
    bool is_final = false;
    std::map<int, std::string> values;
    std::map<int, std::vector<std::shared_ptr<Object>>> parts;
    size_t engine = 0;
    std::shared_ptr<Object> graph;

    std::vector<int64_t> integers(int name) const {
        auto found = values.find(name);
        if (found == values.end()) {
            return {};
        }
        std::vector<int64_t> all(found->second.size() / 8);
        memcpy(all.data(), found->second.data(), all.size() * 8);
        return all;
    }
    int choice(int name) const {
        int value = -1;
        auto found = values.find(name);
        if (found != values.end()) {
            memcpy(&value, found->second.data(), found->second.size() < 4 ? 1 : 4);
            value = found->second.size() < 4 ? found->second[0] != 0 : value;
        }
        return value;
    }
    const Object& part(int name) const { return *parts.at(name).at(0); }
};
using Descriptor = std::shared_ptr<Object>*;
struct Handle { void* stream = nullptr; };

using Index = std::vector<int64_t>;

struct Tensor {
    Type type;
    bool is_boolean, is_virtual, is_value;
    int64_t id;
    Index dims, strides;

    explicit Tensor(const Object& object)
        : type(F32), is_boolean(false), is_virtual(object.choice(TENSOR_IS_VIRTUAL) == 1),
          is_value(object.choice(TENSOR_IS_VALUE) == 1), id(object.integers(TENSOR_ID).at(0)),
          dims(object.integers(TENSOR_DIMS)), strides(object.integers(TENSOR_STRIDES)) {
        const std::map<int, Type> types = {{2, F16}, {9, BF16}, {12, F8}};
        auto found = types.find(object.choice(TENSOR_TYPE));
        type = found == types.end() ? F32 : found->second;
    }
    size_t offset(const Index& index) const {
        size_t offset = 0;
        for (size_t axis = 0, skipped = index.size() - dims.size(); axis < dims.size(); ++axis) {
            offset += dims[axis] == 1 ? 0 : index[axis + skipped] * strides[axis];
        }
        return offset;
    }
    size_t span() const {
        Index last;
        for (int64_t size : dims) {
            last.push_back(size - 1);
        }
        return offset(last) + 1;
    }
    size_t bytes() const { return span() * (type == F32 ? 4 : type == F8 ? 1 : 2); }
};

static void each(const Index& dims, const std::function<void(const Index&)>& act) {
    Index index(dims.size(), 0);
    for (;;) {
        act(index);
        size_t axis = dims.size();
        while (axis > 0 && ++index[axis - 1] == dims[axis - 1]) {
            index[--axis] = 0;
        }
        if (axis == 0) {
            return;
        }
    }
}

struct Run {
    std::shared_ptr<Object> graph;
    std::map<int64_t, uintptr_t> addresses;
    std::map<int64_t, float> numbers;
    uintptr_t workspace;
    size_t workspace_bytes;
    std::map<int64_t, std::string> passing;

    uintptr_t memory(const Tensor& tensor) {
        auto found = addresses.find(tensor.id);
        if (found != addresses.end()) {
            return found->second;
        }
        std::string& bytes = passing[tensor.id];
        if (bytes.empty()) {
            bytes.assign(tensor.bytes(), (char)0xff);
        }
        return (uintptr_t)bytes.data();
    }
    double get(const Tensor& tensor, const Index& index) {
        if (tensor.is_value) {
            return numbers.at(tensor.id);
        }
        return value_at(memory(tensor), tensor.type, tensor.offset(index));
    }
    void fill(const Tensor& output, const std::function<double(const Index&)>& element) {
        each(output.dims, [&](const Index& index) {
            put_at(memory(output), output.type, output.offset(index), element(index));
        });
    }

    void matmul(const Object& operation) {
        const Tensor a(operation.part(MATMUL_A)), b(operation.part(MATMUL_B)), c(operation.part(MATMUL_C));
        fill(c, [&](Index left) {
            Index right = left;
            const size_t rank = left.size();
            double sum = 0;
            for (int64_t k = 0; k < a.dims.back(); ++k) {
                left[rank - 1] = right[rank - 2] = k;
                sum += get(a, left) * get(b, right);
            }
            return sum;
        });
    }
    void pointwise(const Object& operation) {
        const Object& setting = operation.part(POINTWISE_SETTING);
        const Tensor y(operation.part(POINTWISE_Y));
        std::vector<Tensor> x;
        for (int name : {POINTWISE_X, POINTWISE_B, POINTWISE_T}) {
            if (operation.parts.count(name)) {
                x.emplace_back(operation.part(name));
            }
        }
        const int mode = setting.choice(POINTWISE_MODE);
        const auto axis = setting.integers(POINTWISE_AXIS);
        fill(y, [&](const Index& index) -> double {
            const auto at = [&](size_t operand) { return get(x.at(operand), index); };
            switch (mode) {
            case 0: return at(0) + at(1);
            case 1: return at(0) * at(1);
            case 6: return at(0) / at(1);
            case 9: return at(0) - at(1);
            case 13: return std::exp(at(0));
            case 15: return std::log(at(0));
            case 303: return at(0) >= at(1) ? 1 : 0;
            case 501: return (double)index.at(axis.at(0));
            case 601: return at(2) != 0 ? at(0) : at(1);
            default: return NAN;
            }
        });
    }
    void reduce(const Object& operation) {
        const Tensor x(operation.part(REDUCTION_X)), y(operation.part(REDUCTION_Y));
        const int kind = operation.part(REDUCTION_SETTING).choice(REDUCTION_OPERATOR);
        Index along = x.dims;
        for (size_t axis = 0; axis < along.size(); ++axis) {
            along[axis] = y.dims[axis] == 1 ? x.dims[axis] : 1;
        }
        fill(y, [&](const Index& index) {
            double result = kind == 3 ? -INFINITY : 0;
            each(along, [&](Index at) {
                for (size_t axis = 0; axis < at.size(); ++axis) {
                    at[axis] += y.dims[axis] == 1 ? 0 : index[axis];
                }
                const double value = get(x, at);
                result = kind == 0 ? result + value : std::fmax(result, kind == 4 ? std::fabs(value) : value);
            });
            return result;
        });
    }
    void convolve(const Object& operation) {
        const Tensor x(operation.part(CONVOLUTION_X)), w(operation.part(CONVOLUTION_W));
        const Tensor y(operation.part(CONVOLUTION_Y));
        const Object& setting = operation.part(CONVOLUTION_SETTING);
        const auto strides = setting.integers(STRIDES), before = setting.integers(PADDINGS);
        const int64_t groups = x.dims[1] / w.dims[1];
        fill(y, [&](const Index& index) {
            const int64_t group = index[1] / (w.dims[0] / groups);
            double sum = 0;
            each({w.dims[1], w.dims[2], w.dims[3]}, [&](const Index& tap) {
                const int64_t row = index[2] * strides[0] + tap[1] - before[0];
                const int64_t column = index[3] * strides[1] + tap[2] - before[1];
                if (row >= 0 && row < x.dims[2] && column >= 0 && column < x.dims[3]) {
                    sum += get(x, {index[0], group * w.dims[1] + tap[0], row, column})
                        * get(w, {index[1], tap[0], tap[1], tap[2]});
                }
            });
            return sum;
        });
    }
    void attend(const Object& operation) {
        const Tensor q(operation.part(ATTENTION_Q)), k(operation.part(ATTENTION_K));
        const Tensor v(operation.part(ATTENTION_V)), o(operation.part(ATTENTION_O));
        const Tensor scale(operation.part(ATTENTION_SCALE));
        const int64_t keys = k.dims[2];
        each({o.dims[0], o.dims[1], o.dims[2]}, [&](const Index& row) {
            std::vector<double> powers;
            double greatest = -INFINITY, sum = 0;
            for (int64_t key = 0; key < keys; ++key) {
                double score = 0;
                for (int64_t at = 0; at < q.dims[3]; ++at) {
                    score += get(q, {row[0], row[1], row[2], at}) * get(k, {row[0], row[1], key, at});
                }
                powers.push_back(score * get(scale, {0, 0, 0, 0}));
                greatest = std::fmax(greatest, powers.back());
            }
            for (double& power : powers) {
                sum += power = std::exp(power - greatest);
            }
            for (int64_t column = 0; column < o.dims[3]; ++column) {
                double value = 0;
                for (int64_t key = 0; key < keys; ++key) {
                    value += powers[key] * get(v, {row[0], row[1], key, column});
                }
                put_at(memory(o), o.type, o.offset({row[0], row[1], row[2], column}), value / sum);
            }
        });
    }

    void all() {
        if (workspace_bytes) {
            simulated_expect(workspace, workspace_bytes, "a graph's workspace:");
            memset((void*)workspace, 0xff, workspace_bytes);
        }
        for (const auto& operation : graph->parts.at(GRAPH_OPERATIONS)) {
            for (const auto& [name, tensors] : operation->parts) {
                if (tensors[0]->kind == TENSOR && addresses.count(tensors[0]->integers(TENSOR_ID)[0])) {
                    const Tensor tensor(*tensors[0]);
                    simulated_expect(memory(tensor), tensor.bytes(), "a graph touches");
                }
            }
            switch (operation->kind) {
            case MATMUL: matmul(*operation); break;
            case POINTWISE: pointwise(*operation); break;
            case REDUCTION: reduce(*operation); break;
            case CONVOLUTION: convolve(*operation); break;
            case ATTENTION: attend(*operation); break;
            }
        }
        passing.clear();
    }
};

// Whether a graph is one that Hopper GPUs have engines for, as far as Tintype relies on it.
static bool is_supported(const Object& graph) {
    for (const auto& operation : graph.parts.at(GRAPH_OPERATIONS)) {
        for (const auto& [name, tensors] : operation->parts) {
            if (operation->kind != ATTENTION || tensors[0]->kind != TENSOR || name == ATTENTION_SCALE) {
                continue;
            }
            const Tensor tensor(*tensors[0]);
            const bool is_half = tensor.type == F16 || tensor.type == BF16;
            if (!is_half || tensor.dims[3] % 8 != 0 || tensor.dims[3] > 256 || tensor.strides[3] != 1) {
                return false;
            }
        }
    }
    return true;
}

extern "C" {

size_t cudnnGetVersion() { return 91400; }
const char* cudnnGetErrorString(int) { return "an error of the simulated cuDNN"; }
void cudnnGetLastErrorString(char* text, size_t room) {
    if (room > 0) {
        text[0] = 0;
    }
}
int cudnnCreate(Handle** handle) { *handle = new Handle; return SUCCESS; }
int cudnnDestroy(Handle* handle) { delete handle; return SUCCESS; }
int cudnnSetStream(Handle* handle, void* stream) { handle->stream = stream; return SUCCESS; }
int cudnnBackendCreateDescriptor(int kind, Descriptor* made) {
    *made = new std::shared_ptr<Object>(new Object{kind, false, {}, {}, 0, nullptr});
    return SUCCESS;
}
int cudnnBackendDestroyDescriptor(Descriptor descriptor) { delete descriptor; return SUCCESS; }
int cudnnBackendSetAttribute(Descriptor descriptor, int name, int type, int64_t count, const void* values) {
    Object& object = **descriptor;
    if (object.is_final) {
        return BAD_PARAM;
    }
    if (type == DESCRIPTOR_TYPE) {
        auto& parts = object.parts[name];
        parts.clear();
        for (int64_t at = 0; at < count; ++at) {
            const auto& part = *((const Descriptor*)values)[at];
            if (!part->is_final) {
                return NOT_FINALIZED;
            }
            parts.push_back(part);
        }
        return SUCCESS;
    }
    const bool is_wide = type == 0 || type == 3 || type == 5 || type == 6;
    const size_t width = is_wide ? 8 : type == 2 ? 1 : 4;
    object.values[name].assign((const char*)values, count * width);
    return SUCCESS;
}
int cudnnBackendFinalize(Descriptor descriptor) {
    Object& object = **descriptor;
    if (object.kind == HEURISTIC) {
        object.graph = object.parts.at(HEURISTIC_GRAPH).at(0);
    }
    if (object.kind == PLAN) {
        const Object& configuration = object.part(PLAN_CONFIGURATION);
        object.graph = configuration.graph;
        object.engine = configuration.engine;
        if (!is_supported(*object.graph)) {
            return NOT_SUPPORTED;
        }
    }
    object.is_final = true;
    return SUCCESS;
}
int cudnnBackendGetAttribute(Descriptor descriptor, int name, int, int64_t room, int64_t* count, void* values) {
    Object& object = **descriptor;
    *count = 1;
    switch (name) {
    case HEURISTIC_RESULTS:
        // Only the quick advice knows some.
        *count = object.choice(HEURISTIC_MODE) == 3 ? 2 : 0;
        for (int64_t at = 0; at < *count && at < room; ++at) {
            Object& result = **((Descriptor*)values)[at];
            result.engine = (size_t)at;
            result.graph = object.graph;
            result.is_final = true;
        }
        return SUCCESS;
    case CONFIGURATION_ENGINE: {
        Object& engine = **((Descriptor*)values)[0];
        engine.engine = object.engine;
        engine.is_final = true;
        return SUCCESS;
    }
    case ENGINE_NUMERICAL:
    case ENGINE_BEHAVIOR: *count = 0; return SUCCESS;
    case ENGINE_INDEX: *(int64_t*)values = (int64_t)object.engine; return SUCCESS;
    case PLAN_WORKSPACE: *(int64_t*)values = (int64_t)WORKSPACES[object.engine]; return SUCCESS;
    default: return BAD_PARAM;
    }
}
int cudnnBackendExecute(Handle* handle, Descriptor plan, Descriptor pack) {
    const auto ids = (*pack)->integers(PACK_IDS), pointers = (*pack)->integers(PACK_POINTERS);
    const auto workspace = (*pack)->integers(PACK_WORKSPACE);
    if (!(*plan)->is_final || !(*pack)->is_final || ids.size() != pointers.size()) {
        return BAD_PARAM;
    }
    auto* run = new Run{(*plan)->graph, {}, {}, 0, WORKSPACES[(*plan)->engine], {}};
    run->workspace = workspace.empty() ? 0 : (uintptr_t)workspace[0];
    std::map<int64_t, uintptr_t> given;
    for (size_t at = 0; at < ids.size(); ++at) {
        given[ids[at]] = (uintptr_t)pointers[at];
    }
    for (const auto& operation : run->graph->parts.at(GRAPH_OPERATIONS)) {
        for (const auto& [name, tensors] : operation->parts) {
            if (tensors[0]->kind != TENSOR) {
                continue;
            }
            const Tensor tensor(*tensors[0]);
            if (tensor.is_virtual) {
                continue;
            }
            if (!given.count(tensor.id)) {
                return BAD_PARAM;
            }
            // Values of the host are read now.
            if (tensor.is_value) {
                run->numbers[tensor.id] = *(const float*)given[tensor.id];
            } else {
                run->addresses[tensor.id] = given[tensor.id];
            }
        }
    }
    // It may run many times, in a graph; so it stays.
    const auto act = [](void* run) { ((Run*)run)->all(); };
    return simulated_enqueue(handle->stream, "a graph of cuDNN", act, run) ? 5000 : SUCCESS;
}

} // extern "C"
