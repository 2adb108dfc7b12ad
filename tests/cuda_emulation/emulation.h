// The small kernel language of csrc/cuda/ (see csrc/cuda/launch.h) for a plain C++ compiler.
//
// Included in front of an unchanged .cu file (g++ -x c++ -include emulation.h -DPCT_CUDA_EMULATION). Each thread of a block
// is a fiber; blocks run one after another on one OS thread; emulation.cpp schedules them and watches the rules of CUDA.
// What is not here is not in the language: __activemask, inline PTX, cooperative groups, textures.
#pragma once
#include <math.h>  // and not cmath: overloads for float and double without std::
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

// The library registers its kernels for the CPU instead of CUDA, and new tensors are filled with garbage and fenced in.
#define aoti_torch_library_init_impl pct_emulated_library_init_impl
#define aoti_torch_empty_strided pct_emulated_empty_strided
#define torch_c10_cuda_check_msg pct_emulated_check_msg
#define torch_c10_cuda_free_error_msg pct_emulated_free_error_msg
#include "torch_abi.h"

// ---- declarations ----------------------------------------------------------------------------------------------------
#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
// Thread-local variables of a shared library lie in one piece of memory, which the emulation fills with garbage before each
// block; a section attribute would say the same, but gcc ignores it inside templates.
#define __shared__ static thread_local
#define PCT_SHARED_MEMORY(type, name) type* name = reinterpret_cast<type*>(::pct::emulation::dynamic_shared_memory())
#define PCT_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                              \
  do {                                                                                          \
    ::pct::emulation::launch(#kernel, grid, block, shared_bytes, stream, kernel, __VA_ARGS__);  \
    ::pct::check_cuda(cudaGetLastError(), #kernel, __LINE__);                                   \
  } while (0)

#define PCT_VECTORS(T, name)                                                          \
  struct name##2 { T x, y; };                                                         \
  struct name##3 { T x, y, z; };                                                      \
  struct alignas(sizeof(T) < 8 ? 4 * sizeof(T) : 16) name##4 { T x, y, z, w; };       \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                          \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                  \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
PCT_VECTORS(int, int)
PCT_VECTORS(unsigned, uint)
PCT_VECTORS(long long, longlong)
PCT_VECTORS(float, float)
PCT_VECTORS(double, double)
#undef PCT_VECTORS

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// ---- the runtime -----------------------------------------------------------------------------------------------------
using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0, cudaErrorStreamCaptureUnsupported = 900;
inline cudaError_t cudaMemsetAsync(void* data, int byte, size_t bytes, cudaStream_t) {
  if (bytes > 0) std::memset(data, byte, bytes);
  return cudaSuccess;
}
enum cudaMemcpyKind { cudaMemcpyDeviceToHost };
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t);  // an error while the stream is captured into a graph
cudaError_t cudaGetLastError();                   // of calls and launches, which is then forgotten

namespace pct {

class OnDeviceOf {
 public:
  explicit OnDeviceOf(const Tensor&) {}
  OnDeviceOf(const OnDeviceOf&) = delete;
  cudaStream_t stream() const { return nullptr; }
};

namespace emulation {

enum class Operation {
  kBarrier, kBarrierOr, kBarrierAnd, kBarrierCount,  // all live threads of the block
  kSyncWarp, kBallot, kShuffle,                      // the lanes of a mask
};

// Where a thread called: for reports, and because a barrier must be the same barrier for all threads.
struct Site {
  const char* file;
  int line;
};

void* dynamic_shared_memory();
// Waits for all live threads, returns the combination of their predicates.
int barrier(Operation operation, bool predicate, Site site);
// Waits for the lanes of the mask; returns a ballot of the values, or the value of the lane `source`.
uint64_t warp_exchange(Operation operation, unsigned mask, uint64_t value, int source, Site site);
int lane();
void launch(const char* kernel, dim3 grid, dim3 block, int64_t shared_bytes, void (*thread)(void*), void* context);

template <class... Parameters, class... Arguments>
void launch(const char* name, dim3 grid, dim3 block, int64_t shared_bytes, cudaStream_t,
            void (*kernel)(Parameters...), Arguments... arguments) {
  auto thread = [&] { kernel(arguments...); };
  launch(name, grid, block, shared_bytes, [](void* context) { (*static_cast<decltype(thread)*>(context))(); }, &thread);
}

template <class T>
T shuffle(unsigned mask, T value, int source, Site site) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "shuffles move 32 or 64 bits");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = warp_exchange(Operation::kShuffle, mask, bits, source, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class To, class From>
To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

template <class T>
struct Same {
  using type = T;
};
template <class T>
using same = typename Same<T>::type;  // an argument that does not take part in deduction

}  // namespace emulation
}  // namespace pct

// ---- synchronisation and warps ---------------------------------------------------------------------------------------
#define PCT_HERE const char* file = __builtin_FILE(), int line = __builtin_LINE()
#define PCT_OPERATION(name) ::pct::emulation::Operation::name
inline void __syncthreads(PCT_HERE) { ::pct::emulation::barrier(PCT_OPERATION(kBarrier), false, {file, line}); }
inline int __syncthreads_or(int predicate, PCT_HERE) {
  return ::pct::emulation::barrier(PCT_OPERATION(kBarrierOr), predicate, {file, line});
}
inline int __syncthreads_and(int predicate, PCT_HERE) {
  return ::pct::emulation::barrier(PCT_OPERATION(kBarrierAnd), predicate, {file, line});
}
inline int __syncthreads_count(int predicate, PCT_HERE) {
  return ::pct::emulation::barrier(PCT_OPERATION(kBarrierCount), predicate, {file, line});
}
inline void __syncwarp(unsigned mask = 0xffffffffu, PCT_HERE) {
  ::pct::emulation::warp_exchange(PCT_OPERATION(kSyncWarp), mask, 0, 0, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, PCT_HERE) {
  return static_cast<unsigned>(
      ::pct::emulation::warp_exchange(PCT_OPERATION(kBallot), mask, predicate != 0, 0, {file, line}));
}
inline int __any_sync(unsigned mask, int predicate, PCT_HERE) { return __ballot_sync(mask, predicate, file, line) != 0; }
inline int __all_sync(unsigned mask, int predicate, PCT_HERE) {
  return __ballot_sync(mask, predicate, file, line) == mask;
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, PCT_HERE) {
  const int first = ::pct::emulation::lane() & ~(width - 1);
  return ::pct::emulation::shuffle(mask, value, first + (source & (width - 1)), {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, PCT_HERE) {
  const int lane = ::pct::emulation::lane(), within = lane & (width - 1);
  return ::pct::emulation::shuffle(mask, value, static_cast<int>(delta) > within ? lane : lane - static_cast<int>(delta),
                                   {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, PCT_HERE) {
  const int lane = ::pct::emulation::lane(), target = (lane & (width - 1)) + static_cast<int>(delta);
  return ::pct::emulation::shuffle(mask, value, target >= width ? lane : lane + static_cast<int>(delta), {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, PCT_HERE) {
  const int lane = ::pct::emulation::lane(), last = lane | (width - 1), target = lane ^ bits;
  return ::pct::emulation::shuffle(mask, value, target > last ? lane : target, {file, line});
}
#undef PCT_OPERATION
#undef PCT_HERE

inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- atomics: one thread runs at a time ------------------------------------------------------------------------------
#define PCT_ATOMIC(name, expression)                                       \
  template <class T>                                                       \
  T name(T* address, ::pct::emulation::same<T> value) {                    \
    const T old = *address;                                                \
    *address = (expression);                                               \
    return old;                                                            \
  }
PCT_ATOMIC(atomicAdd, old + value)
PCT_ATOMIC(atomicSub, old - value)
PCT_ATOMIC(atomicMin, value < old ? value : old)
PCT_ATOMIC(atomicMax, value > old ? value : old)
PCT_ATOMIC(atomicAnd, old & value)
PCT_ATOMIC(atomicOr, old | value)
PCT_ATOMIC(atomicXor, old ^ value)
PCT_ATOMIC(atomicExch, value)
#undef PCT_ATOMIC
template <class T>
T atomicCAS(T* address, ::pct::emulation::same<T> expected, ::pct::emulation::same<T> value) {
  const T old = *address;
  if (old == expected) *address = value;
  return old;
}

// ---- memory, bits, arithmetic ----------------------------------------------------------------------------------------
template <class T>
T __ldg(const T* address) { return *address; }

inline int __float_as_int(float x) { return ::pct::emulation::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return ::pct::emulation::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return ::pct::emulation::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return ::pct::emulation::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return ::pct::emulation::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return ::pct::emulation::bit_cast<double>(x); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }
inline unsigned long long __brevll(unsigned long long x) {
  unsigned long long reversed = 0;
  for (int bit = 0; bit < 64; ++bit) reversed = (reversed << 1) | ((x >> bit) & 1);
  return reversed;
}
inline unsigned __brev(unsigned x) { return static_cast<unsigned>(__brevll(x) >> 32); }

// As in CUDA: any two arithmetic types, and of a number and a NaN the number.
template <class A, class B>
std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmin(static_cast<T>(a), static_cast<T>(b));
  else return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}
template <class A, class B>
std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmax(static_cast<T>(a), static_cast<T>(b));
  else return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
