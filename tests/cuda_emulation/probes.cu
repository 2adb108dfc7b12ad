// Kernels that try the emulation itself: right ones, whose results test_emulation.py knows, and wrong ones, each with one
// typical mistake that the emulation must report or show. All take and give (64,) int64: one block of two warps.
#include "cuda/launch.h"

namespace pct {
namespace {

constexpr int kThreads = 64;

__device__ int64_t reversed_through_shared(int64_t value, bool barrier) {
  __shared__ int64_t values[kThreads];
  values[threadIdx.x] = value;
  if (barrier) __syncthreads();
  return values[kThreads - 1 - threadIdx.x];
}

// ---- right -----------------------------------------------------------------------------------------------------------
__global__ void reverse(const int64_t* in, int64_t* out) {
  out[threadIdx.x] = reversed_through_shared(in[threadIdx.x], true);
}

template <int kRounds>
__global__ void sum_tree(const int64_t* in, int64_t* out) {
  PCT_SHARED_MEMORY(int64_t, values);
  values[threadIdx.x] = in[threadIdx.x];
  for (int round = 0; round < kRounds; ++round) {
    const int step = kThreads >> (round + 1);
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < step) values[threadIdx.x] += values[threadIdx.x + step];
  }
  __syncthreads();
  out[threadIdx.x] = values[0];
}

__global__ void shuffles(const int64_t* in, int64_t* out) {
  const int64_t value = in[threadIdx.x];
  const int lane = threadIdx.x % 32;
  int64_t sum = __shfl_sync(kFullWarp, value, lane + 1, 8);
  sum = 100 * sum + __shfl_up_sync(kFullWarp, static_cast<int>(value), 3);
  sum = 100 * sum + __shfl_down_sync(kFullWarp, static_cast<double>(value), 3, 16);
  out[threadIdx.x] = 100 * sum + __shfl_xor_sync(kFullWarp, value, 5);
}

__global__ void votes(const int64_t* in, int64_t* out) {
  const bool odd = in[threadIdx.x] % 2;
  int64_t bits = __popc(__ballot_sync(kFullWarp, odd));
  bits = 100 * bits + __syncthreads_count(odd);
  bits = 10 * bits + __syncthreads_or(odd);
  bits = 10 * bits + __syncthreads_and(odd);
  if (threadIdx.x < 16) bits = 10 * bits + __all_sync(0x0000ffffu, odd);  // half a warp on its own
  out[threadIdx.x] = 10 * bits + __any_sync(kFullWarp, odd);
}

__global__ void bits(const int64_t* in, int64_t* out) {
  const unsigned x = static_cast<unsigned>(in[threadIdx.x]);
  out[threadIdx.x] = __ffs(x) + 100 * __clz(x) + 10000 * __popcll(~static_cast<unsigned long long>(x)) +
                     1000000 * static_cast<int64_t>(__brev(x) >> 26);
}

__global__ void atomics(const int64_t* in, int64_t* out) {
  __shared__ unsigned long long sum;
  __shared__ int least, greatest;
  __shared__ float single;
  if (threadIdx.x == 0) sum = 0, least = 1 << 30, greatest = -1, single = 0;
  __syncthreads();
  atomicAdd(&sum, in[threadIdx.x]);
  atomicMin(&least, static_cast<int>(in[threadIdx.x]));
  atomicMax(&greatest, static_cast<int>(in[threadIdx.x]));
  for (int seen = __float_as_int(single), expected = ~seen; seen != expected;) {  // float addition by compare-and-swap
    expected = seen;
    seen = atomicCAS(reinterpret_cast<int*>(&single), expected, __float_as_int(__int_as_float(expected) + 0.5f));
  }
  __syncthreads();
  out[threadIdx.x] = static_cast<int64_t>(sum) + 10000 * least + 100000 * greatest + 100000000 * static_cast<int64_t>(single);
}

__global__ void places(const int64_t*, int64_t* out) {  // a grid of (2, 2, 2) blocks of (2, 2, 2) threads
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[8 * block + thread] = 8 * block + thread;
}

// A thread that has returned is not waited for.
__global__ void early_return(const int64_t* in, int64_t* out) {
  __shared__ int64_t last;
  out[threadIdx.x] = 0;
  if (threadIdx.x >= 48) return;
  if (threadIdx.x == 47) last = in[47];
  __syncthreads();
  out[threadIdx.x] = last;
}

// ---- wrong -----------------------------------------------------------------------------------------------------------
__global__ void missing_barrier(const int64_t* in, int64_t* out) {
  out[threadIdx.x] = reversed_through_shared(in[threadIdx.x], false);
}

__global__ void missing_second_barrier(const int64_t* in, int64_t* out) {
  int64_t sum = 0;
  for (int round = 0; round < 2; ++round)  // a fast thread writes its second value before a slow one has read the first
    sum += reversed_through_shared(in[threadIdx.x] + 100 * round, true);
  out[threadIdx.x] = (sum - 100) / 2;
}

__global__ void missing_syncwarp(const int64_t* in, int64_t* out) {
  __shared__ int64_t values[kThreads];
  values[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = values[threadIdx.x ^ 1];
}

__global__ void barrier_in_a_branch(const int64_t* in, int64_t* out) {
  out[threadIdx.x] = in[threadIdx.x];
  if (threadIdx.x < 16) __syncthreads();
  __syncwarp();
}

__global__ void two_barriers(const int64_t* in, int64_t* out) {
  out[threadIdx.x] = in[threadIdx.x];
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}

__global__ void absent_lanes(const int64_t* in, int64_t* out) {
  out[threadIdx.x] = in[threadIdx.x];
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_down_sync(kFullWarp, in[threadIdx.x], 1);
}

__global__ void mask_without_itself(const int64_t* in, int64_t* out) {
  out[threadIdx.x] = __ballot_sync(0x0000ffffu, in[threadIdx.x] > 0);
}

__global__ void shuffle_from_outside(const int64_t* in, int64_t* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0x0000ffffu, in[threadIdx.x], 20);
}

__global__ void uninitialised(const int64_t* in, int64_t* out) {
  __shared__ int64_t sum;
  atomicAdd(reinterpret_cast<unsigned long long*>(&sum), in[threadIdx.x]);
  __syncthreads();
  out[threadIdx.x] = sum;
}

__global__ void past_the_end(const int64_t* in, int64_t* out) {
  PCT_SHARED_MEMORY(int64_t, values);
  values[threadIdx.x + 1] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x + 1];
}

__global__ void behind_a_tensor(const int64_t* in, int64_t* out) { out[threadIdx.x + 1] = in[threadIdx.x]; }

__global__ void in_front_of_a_tensor(const int64_t* in, int64_t* out) {
  out[static_cast<int>(threadIdx.x) - 1] = in[threadIdx.x];
}

__global__ void past_an_array(const int64_t* in, int64_t* out) {
  __shared__ int64_t values[kThreads];
  values[threadIdx.x + 1] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}

__global__ void not_aligned(const int64_t* in, int64_t* out) {
  const float4 pair = *reinterpret_cast<const float4*>(in + threadIdx.x / 2);  // 16 bytes from every eighth one
  out[threadIdx.x] = static_cast<int64_t>(pair.x);
}

__global__ void copied_not_aligned(const int64_t* in, int64_t* out) {
  *reinterpret_cast<float4*>(out + threadIdx.x / 4 * 4 + 1) = *reinterpret_cast<const float4*>(in);
}

__global__ void product_of_int32(const int64_t* in, int64_t* out) {
  const int points = 10000000 + static_cast<int>(in[threadIdx.x]), channels = 512;
  out[threadIdx.x] = points * channels;
}

__global__ void number_too_large(const int64_t* in, int64_t* out) {
  out[threadIdx.x] = static_cast<int>(3e9f * static_cast<float>(in[threadIdx.x]));
}

__global__ void shift_too_far(const int64_t* in, int64_t* out) {
  out[threadIdx.x] = 1u << (32 + in[threadIdx.x] % 2);
}

__global__ void nothing(const int64_t*, int64_t*) {}

__global__ void blocks_in_a_chain(const int64_t*, int64_t* out) {  // 64 blocks of one thread
  out[blockIdx.x] = blockIdx.x == 0 ? 0 : out[blockIdx.x - 1] + 1;
}

// ---- operators: kernel, blocks, threads per block, bytes of dynamic shared memory -----------------------------------
#define PCT_PROBES(PROBE)                             \
  PROBE(reverse, 1, kThreads, 0)                      \
  PROBE(sum_tree<6>, 1, kThreads, 8 * kThreads)       \
  PROBE(shuffles, 1, kThreads, 0)                     \
  PROBE(votes, 1, kThreads, 0)                        \
  PROBE(bits, 1, kThreads, 0)                         \
  PROBE(atomics, 1, kThreads, 0)                      \
  PROBE(places, dim3(2, 2, 2), dim3(2, 2, 2), 0)      \
  PROBE(early_return, 1, kThreads, 0)                 \
  PROBE(missing_barrier, 1, kThreads, 0)              \
  PROBE(missing_second_barrier, 1, kThreads, 0)       \
  PROBE(missing_syncwarp, 1, kThreads, 0)             \
  PROBE(barrier_in_a_branch, 1, kThreads, 0)          \
  PROBE(two_barriers, 1, kThreads, 0)                 \
  PROBE(absent_lanes, 1, kThreads, 0)                 \
  PROBE(mask_without_itself, 1, kThreads, 0)          \
  PROBE(shuffle_from_outside, 1, kThreads, 0)         \
  PROBE(uninitialised, 1, kThreads, 0)                \
  PROBE(past_the_end, 1, kThreads, 8 * kThreads)      \
  PROBE(behind_a_tensor, 1, kThreads, 0)              \
  PROBE(in_front_of_a_tensor, 1, kThreads, 0)         \
  PROBE(past_an_array, 1, kThreads, 0)                \
  PROBE(not_aligned, 1, kThreads, 0)                  \
  PROBE(copied_not_aligned, 1, kThreads, 0)           \
  PROBE(product_of_int32, 1, kThreads, 0)             \
  PROBE(number_too_large, 1, kThreads, 0)             \
  PROBE(shift_too_far, 1, kThreads, 0)                \
  PROBE(blocks_in_a_chain, kThreads, 1, 0)            \
  PROBE(nothing, 0, kThreads, 0)

template <void (*kKernel)(const int64_t*, int64_t*)>
struct Probe;

#define PCT_RUN(kernel, grid, block, shared_bytes)                                                        \
  template <>                                                                                             \
  struct Probe<kernel> {                                                                                  \
    static Tensor run(const Tensor& in) {                                                                 \
      OnDeviceOf device(in);                                                                              \
      Tensor out = empty({kThreads}, int64(), in);                                                        \
      PCT_LAUNCH(kernel, grid, block, shared_bytes, device.stream(), in.data<int64_t>(), out.mutable_data<int64_t>()); \
      return out;                                                                                         \
    }                                                                                                     \
  };
PCT_PROBES(PCT_RUN)

// "sum_tree<6>" is the operator sum_tree
std::string name_of(const char* kernel) { return std::string(kernel, std::strcspn(kernel, "<")); }

const Registration schemas([](Library& library) {
#define PCT_DEFINE(kernel, ...) library.define((name_of(#kernel) + "(Tensor x) -> Tensor").c_str());
  PCT_PROBES(PCT_DEFINE)
});

const Registration kernels("CUDA", [](Library& library) {
#define PCT_IMPLEMENT(kernel, ...) library.implement<&Probe<kernel>::run>(name_of(#kernel).c_str());
  PCT_PROBES(PCT_IMPLEMENT)
});

}  // namespace
}  // namespace pct
