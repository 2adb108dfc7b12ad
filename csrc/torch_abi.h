// The part of PyTorch's stable C ABI (torch >= 2.11) that this package uses: a tensor handle, boxing, registration, parallel_for.
//
// No torch header is needed to compile, no torch library to link: the symbols below are found in the torch that loads us.
// They are declared by torch in torch/csrc/stable/c/shim.h and torch/csrc/inductor/aoti_torch/c/shim.h;
// tests/build/torch_abi_check.cpp includes those and this file together, so a declaration that drifts does not compile.
#pragma once
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

extern "C" {
struct AtenTensorOpaque;
struct TorchLibraryOpaque;
struct DeviceGuardOpaque;
struct StableListOpaque;
int32_t aoti_torch_delete_tensor_object(AtenTensorOpaque*);
int32_t aoti_torch_get_dim(AtenTensorOpaque*, int64_t*);
int32_t aoti_torch_get_sizes(AtenTensorOpaque*, int64_t**);
int32_t aoti_torch_get_dtype(AtenTensorOpaque*, int32_t*);
int32_t aoti_torch_get_device_type(AtenTensorOpaque*, int32_t*);
int32_t aoti_torch_get_device_index(AtenTensorOpaque*, int32_t*);
int32_t aoti_torch_is_contiguous(AtenTensorOpaque*, bool*);
int32_t aoti_torch_zero_(AtenTensorOpaque*);
int32_t aoti_torch_empty_strided(
    int64_t, const int64_t*, const int64_t*, int32_t, int32_t, int32_t, AtenTensorOpaque**);
int32_t torch_get_mutable_data_ptr(AtenTensorOpaque*, void**);
int32_t torch_get_const_data_ptr(AtenTensorOpaque*, const void**);
int32_t aoti_torch_device_type_cpu();
int32_t aoti_torch_device_type_cuda();
int32_t aoti_torch_dtype_float16();
int32_t aoti_torch_dtype_bfloat16();
int32_t aoti_torch_dtype_float32();
int32_t aoti_torch_dtype_float64();
int32_t aoti_torch_dtype_int32();
int32_t aoti_torch_dtype_int64();
size_t aoti_torch_dtype_element_size(int32_t);
int32_t aoti_torch_library_init_def(const char*, const char*, uint32_t, TorchLibraryOpaque**);
int32_t aoti_torch_library_init_impl(const char*, const char*, const char*, uint32_t, TorchLibraryOpaque**);
int32_t aoti_torch_library_def(TorchLibraryOpaque*, const char*);
int32_t torch_library_impl(TorchLibraryOpaque*, const char*, void (*)(uint64_t*, uint64_t, uint64_t), uint64_t);
int32_t aoti_torch_delete_library_object(TorchLibraryOpaque*);
int32_t torch_parallel_for(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void*), void*);
int32_t torch_get_num_threads(uint32_t*);
int32_t torch_list_size(StableListOpaque*, size_t*);
int32_t torch_list_get_item(StableListOpaque*, size_t, uint64_t*);
int32_t torch_delete_list(StableListOpaque*);
// Only in a torch built for CUDA:
int32_t aoti_torch_create_device_guard(int32_t, DeviceGuardOpaque**);
int32_t aoti_torch_delete_device_guard(DeviceGuardOpaque*);
int32_t aoti_torch_get_current_cuda_stream(int32_t, void**);
int32_t torch_c10_cuda_check_msg(int32_t, const char*, const char*, uint32_t, bool, char**);
void torch_c10_cuda_free_error_msg(char*);
}

namespace pct {

#ifndef PCT_NAMESPACE
#define PCT_NAMESPACE "pctransformer"
#endif

// The oldest torch whose calling convention for boxed kernels we speak.
constexpr uint64_t kTorchAbiVersion = (2ull << 56) | (11ull << 48);

template <class... Parts>
[[noreturn]] inline void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

#define PCT_CHECK(condition, ...) \
  do {                            \
    if (!(condition)) ::pct::fail(__VA_ARGS__); \
  } while (0)

// A call into torch: its own error text has been printed by torch, ours says which call failed.
#define PCT_TORCH(call)                                     \
  do {                                                      \
    if ((call) != 0) ::pct::fail("torch refused: " #call);  \
  } while (0)

// dtypes, by the names torch gives them
inline int32_t float16() { return aoti_torch_dtype_float16(); }
inline int32_t bfloat16() { return aoti_torch_dtype_bfloat16(); }
inline int32_t float32() { return aoti_torch_dtype_float32(); }
inline int32_t float64() { return aoti_torch_dtype_float64(); }
inline int32_t int32() { return aoti_torch_dtype_int32(); }
inline int32_t int64() { return aoti_torch_dtype_int64(); }

// Owns one reference to a tensor.
class Tensor {
  struct Delete {
    void operator()(AtenTensorOpaque* handle) const { aoti_torch_delete_tensor_object(handle); }
  };
  std::unique_ptr<AtenTensorOpaque, Delete> handle_;

 public:
  explicit Tensor(AtenTensorOpaque* handle) : handle_(handle) {}
  AtenTensorOpaque* get() const { return handle_.get(); }
  AtenTensorOpaque* release() { return handle_.release(); }

  int64_t dim() const {
    int64_t dim;
    PCT_TORCH(aoti_torch_get_dim(get(), &dim));
    return dim;
  }
  int64_t size(int64_t axis) const {
    int64_t* sizes;
    PCT_TORCH(aoti_torch_get_sizes(get(), &sizes));
    return sizes[axis < 0 ? axis + dim() : axis];
  }
  int64_t numel() const {
    int64_t product = 1;
    for (int64_t axis = 0; axis < dim(); ++axis) product *= size(axis);
    return product;
  }
  int32_t dtype() const {
    int32_t dtype;
    PCT_TORCH(aoti_torch_get_dtype(get(), &dtype));
    return dtype;
  }
  int64_t element_size() const { return static_cast<int64_t>(aoti_torch_dtype_element_size(dtype())); }
  int32_t device_type() const {
    int32_t type;
    PCT_TORCH(aoti_torch_get_device_type(get(), &type));
    return type;
  }
  int32_t device_index() const {
    int32_t index;
    PCT_TORCH(aoti_torch_get_device_index(get(), &index));
    return index;
  }
  bool is_contiguous() const {
    bool contiguous;
    PCT_TORCH(aoti_torch_is_contiguous(get(), &contiguous));
    return contiguous;
  }
  template <class T>
  T* mutable_data() const {
    void* data;
    PCT_TORCH(torch_get_mutable_data_ptr(get(), &data));
    return static_cast<T*>(data);
  }
  template <class T>
  const T* data() const {
    const void* data;
    PCT_TORCH(torch_get_const_data_ptr(get(), &data));
    return static_cast<const T*>(data);
  }
  const Tensor& zero_() const {
    PCT_TORCH(aoti_torch_zero_(get()));
    return *this;
  }
};

// A new contiguous tensor on the device of `like`; its memory is not initialised.
inline Tensor empty(std::initializer_list<int64_t> sizes, int32_t dtype, const Tensor& like) {
  constexpr int kMaxDims = 8;
  int64_t strides[kMaxDims];
  const int dims = static_cast<int>(sizes.size());
  PCT_CHECK(dims <= kMaxDims, "pct::empty: at most ", kMaxDims, " dimensions");
  int64_t stride = 1;
  for (int axis = dims - 1; axis >= 0; --axis) {
    strides[axis] = stride;
    stride *= sizes.begin()[axis] > 1 ? sizes.begin()[axis] : 1;
  }
  AtenTensorOpaque* handle;
  PCT_TORCH(aoti_torch_empty_strided(
      dims, sizes.begin(), strides, dtype, like.device_type(), like.device_index(), &handle));
  return Tensor(handle);
}

inline Tensor zeros(std::initializer_list<int64_t> sizes, int32_t dtype, const Tensor& like) {
  Tensor tensor = empty(sizes, dtype, like);
  tensor.zero_();
  return tensor;
}

// body(begin, end) over pieces of [begin, end) on torch's own threads. An exception inside the body loses its text:
// check before the loop.
template <class Body>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Body& body) {
  PCT_TORCH(torch_parallel_for(
      begin, end, grain,
      [](int64_t from, int64_t to, void* context) { (*static_cast<const Body*>(context))(from, to); },
      const_cast<Body*>(&body)));
}

inline int64_t num_threads() {
  uint32_t threads;
  PCT_TORCH(torch_get_num_threads(&threads));
  return static_cast<int64_t>(threads);
}

// ---- boxing: a kernel's arguments and results travel as 64-bit words -------------------------------------------------
template <class T>
struct Word;
template <>
struct Word<Tensor> {
  static Tensor from(uint64_t word) { return Tensor(reinterpret_cast<AtenTensorOpaque*>(word)); }
  static uint64_t to(Tensor tensor) { return reinterpret_cast<uint64_t>(tensor.release()); }
};
template <>
struct Word<int64_t> {
  static int64_t from(uint64_t word) { return static_cast<int64_t>(word); }
};
template <>
struct Word<double> {
  static double from(uint64_t word) {
    double value;
    std::memcpy(&value, &word, sizeof(value));
    return value;
  }
};
template <>
struct Word<bool> {
  static bool from(uint64_t word) {
    bool value;
    std::memcpy(&value, &word, sizeof(value));
    return value;
  }
};
// "T?" arrives as a null pointer or as a pointer to a word on the heap that becomes ours.
template <class T>
struct Word<std::optional<T>> {
  static std::optional<T> from(uint64_t word) {
    if (word == 0) return std::nullopt;
    std::unique_ptr<uint64_t> inner(reinterpret_cast<uint64_t*>(word));
    return Word<T>::from(*inner);
  }
};
// "SymInt[]" arrives as a list of words that becomes ours.
template <>
struct Word<std::vector<int64_t>> {
  struct Delete {
    void operator()(StableListOpaque* list) const { torch_delete_list(list); }
  };
  static std::vector<int64_t> from(uint64_t word) {
    std::unique_ptr<StableListOpaque, Delete> list(reinterpret_cast<StableListOpaque*>(word));
    size_t size;
    PCT_TORCH(torch_list_size(list.get(), &size));
    std::vector<int64_t> numbers(size);
    for (size_t i = 0; i < size; ++i) {
      uint64_t element;
      PCT_TORCH(torch_list_get_item(list.get(), i, &element));
      numbers[i] = Word<int64_t>::from(element);
    }
    return numbers;
  }
};

template <class T>
using bare = std::remove_cv_t<std::remove_reference_t<T>>;

template <class Result>
struct Results {
  static void put(uint64_t* stack, Result result) { stack[0] = Word<Result>::to(std::move(result)); }
};
template <class... Parts>
struct Results<std::tuple<Parts...>> {
  static void put(uint64_t* stack, std::tuple<Parts...> result) { put(stack, result, std::index_sequence_for<Parts...>{}); }
  template <size_t... I>
  static void put(uint64_t* stack, std::tuple<Parts...>& result, std::index_sequence<I...>) {
    ((stack[I] = Word<Parts>::to(std::move(std::get<I>(result)))), ...);
  }
};

template <auto Kernel>
struct Boxed;
template <class Result, class... Args, Result (*Kernel)(Args...)>
struct Boxed<Kernel> {
  static void call(uint64_t* stack, uint64_t num_args, uint64_t) {
    PCT_CHECK(num_args == sizeof...(Args), "schema has ", num_args, " arguments, its kernel ", sizeof...(Args));
    call(stack, std::index_sequence_for<Args...>{});
  }
  template <size_t... I>
  static void call(uint64_t* stack, std::index_sequence<I...>) {
    std::tuple<bare<Args>...> args{Word<bare<Args>>::from(stack[I])...};
    Results<Result>::put(stack, Kernel(std::get<I>(args)...));
  }
};

// ---- registration ----------------------------------------------------------------------------------------------------
class Library {
  // What torch names as the origin of an operator in its messages; not __FILE__, which is a path of the building machine.
  static constexpr const char* kOrigin = "pctransformer/csrc";
  TorchLibraryOpaque* handle_ = nullptr;

 public:
  Library() { PCT_TORCH(aoti_torch_library_init_def(PCT_NAMESPACE, kOrigin, 0, &handle_)); }
  explicit Library(const char* dispatch_key) {
    PCT_TORCH(aoti_torch_library_init_impl(PCT_NAMESPACE, dispatch_key, kOrigin, 0, &handle_));
  }
  Library(const Library&) = delete;
  ~Library() { aoti_torch_delete_library_object(handle_); }

  Library& define(const char* schema) {
    PCT_TORCH(aoti_torch_library_def(handle_, schema));
    return *this;
  }
  template <auto Kernel>
  Library& implement(const char* name) {
    PCT_TORCH(torch_library_impl(handle_, name, &Boxed<Kernel>::call, kTorchAbiVersion));
    return *this;
  }
};

// A static Registration at the end of a file registers that file's kernels when the shared library is loaded.
struct Registration {
  template <class Fill>
  Registration(const char* dispatch_key, Fill fill) : library(dispatch_key) { fill(library); }
  template <class Fill>
  explicit Registration(Fill fill) { fill(library); }
  Library library;
};

}  // namespace pct
