// Runs the threads of a block as fibers, block after block, and watches the rules of CUDA while it does.
#include "emulation.h"

#include <link.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "cuda/launch.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace pct {
namespace emulation {
namespace {

constexpr int kMaxThreads = 1024;                     // of a block, as CUDA's
constexpr size_t kStackBytes = 128 * 1024, kPageBytes = 4096;
constexpr uint32_t kGarbage = 0x7ffadbad;             // a NaN as float and, twice, as double; a huge index as integer
constexpr int64_t kFenceBytes = 256;                  // around memory that kernels write to: still garbage afterwards?
constexpr size_t kFencedTensors = 64;                 // the last ones that operators have made; one makes fewer than that

enum class State { kReady, kWaiting, kDone };
enum class Order { kForward, kBackward, kShuffled };

struct Thread {
  void* stack = nullptr;
  bool started = false;  // the fiber exists: it is on its way, or waits for its next kernel
  jmp_buf position;
  State state;
  // while it waits
  Operation operation;
  Site site;
  unsigned mask;
  int source;
  uint64_t value, result;
};

std::mutex one_launch;
std::vector<Thread> threads(kMaxThreads);
jmp_buf scheduler;
Thread* current = nullptr;  // only while a thread of a kernel runs
int thread_count;
void (*thread_body)(void*);
void* thread_context;
std::vector<unsigned char> shared_bytes;
std::string error;  // of the running kernel
bool captured = false;
cudaError_t last_error = cudaSuccess;

Order order = Order::kForward;
uint64_t random_state = 0;

uint64_t random_number() {  // splitmix64
  uint64_t z = (random_state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

template <class T>
void shuffle(std::vector<T>& items) {
  for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[random_number() % i]);
}

// ---- fibers: made with ucontext, switched with _setjmp, which unlike swapcontext makes no system call ----------------
__attribute__((noinline)) void suspend() {
  if (_setjmp(current->position) == 0) _longjmp(scheduler, 1);
}

void fiber() {
  for (;;) {  // one kernel after another
    thread_body(thread_context);
    current->state = State::kDone;
    suspend();
  }
}

void start() {
  Thread& thread = *current;
  if (thread.stack == nullptr) {
    void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    PCT_CHECK(memory != MAP_FAILED, "emulation: no memory for stacks");
    mprotect(memory, kPageBytes, PROT_NONE);  // a stack that overflows ends the program, not its neighbour
    thread.stack = memory;
  }
  thread.started = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = thread.stack;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, fiber, 0);
  setcontext(&context);
}

__attribute__((noinline)) void resume(Thread* thread) {
  current = thread;
  if (_setjmp(scheduler) != 0) {
    current = nullptr;
    return;
  }
  if (thread->started) _longjmp(thread->position, 1);
  start();
}

[[noreturn]] void stop(const std::string& what) {
  error = what;
  current->state = State::kWaiting;
  for (;;) suspend();
}

// ---- what threads wait for -------------------------------------------------------------------------------------------
const char* name_of(Operation operation) {
  switch (operation) {
    case Operation::kSyncWarp: return "__syncwarp";
    case Operation::kBallot: return "a ballot";
    case Operation::kShuffle: return "a shuffle";
    default: return "__syncthreads";
  }
}

bool is_barrier(const Thread& thread) { return thread.operation <= Operation::kBarrierCount; }

std::string describe(int t) {
  const Thread& thread = threads[t];
  std::ostringstream text;
  text << "thread " << t;
  if (thread.state == State::kDone) {
    text << " has returned";
  } else {
    const char* slash = std::strrchr(thread.site.file, '/');
    text << " waits at " << name_of(thread.operation) << " (" << (slash ? slash + 1 : thread.site.file) << ':'
         << thread.site.line << ')';
    if (!is_barrier(thread)) text << " for lanes 0x" << std::hex << thread.mask;
  }
  return text.str();
}

// The first thread of each kind of waiting, for the report on a deadlock.
std::string describe_all() {
  std::string text;
  std::vector<int> told;
  for (int t = 0; t < thread_count; ++t) {
    auto alike = [&](int other) {
      const Thread &a = threads[t], &b = threads[other];
      return a.state == b.state && (a.state == State::kDone || (a.operation == b.operation && a.site.line == b.site.line &&
                                                                a.mask == b.mask));
    };
    if (std::any_of(told.begin(), told.end(), alike)) continue;
    told.push_back(t);
    if (told.size() <= 6) text += (told.size() > 1 ? "; " : "") + describe(t);
  }
  return text;
}

// If all lanes of the mask have arrived, gives each its result and makes it ready.
bool complete(Thread* warp, int lanes, unsigned mask, Operation operation) {
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    if (lane >= lanes) return false;
    const Thread& thread = warp[lane];
    if (thread.state != State::kWaiting || thread.operation != operation || thread.mask != mask) return false;
  }
  unsigned ballot = 0;
  for (int lane = 0; lane < lanes; ++lane)
    if (mask >> lane & 1) ballot |= static_cast<unsigned>(warp[lane].value & 1) << lane;
  for (int lane = 0; lane < lanes; ++lane) {
    if (!(mask >> lane & 1)) continue;
    warp[lane].result = operation == Operation::kShuffle ? warp[warp[lane].source].value : ballot;
    warp[lane].state = State::kReady;
  }
  return true;
}

// All live threads are at a barrier: let them go on, if it is the same one.
void release_barrier() {
  const Thread* first = nullptr;
  int count = 0, live = 0;
  for (int t = 0; t < thread_count; ++t) {
    const Thread& thread = threads[t];
    if (thread.state == State::kDone) continue;
    if (first == nullptr) first = &thread;
    if (thread.operation != first->operation || thread.site.line != first->site.line ||
        std::strcmp(thread.site.file, first->site.file) != 0) {
      error = "threads of a block wait at different barriers: " + describe_all();
      return;
    }
    ++live;
    count += thread.value != 0;
  }
  const Operation operation = first->operation;
  const int result = operation == Operation::kBarrierAnd ? count == live
                     : operation == Operation::kBarrierOr ? count > 0
                                                          : count;
  for (int t = 0; t < thread_count; ++t) {
    if (threads[t].state == State::kDone) continue;
    threads[t].result = static_cast<uint64_t>(result);
    threads[t].state = State::kReady;
  }
}

// ---- the schedule ----------------------------------------------------------------------------------------------------
bool run_if_ready(int t) {
  if (threads[t].state != State::kReady || !error.empty()) return false;
  threadIdx.x = t % blockDim.x;
  threadIdx.y = t / blockDim.x % blockDim.y;
  threadIdx.z = t / (blockDim.x * blockDim.y);
  resume(&threads[t]);
  return true;
}

// Forward and backward let one warp after another run as far as it can, so that it is far ahead of the others; shuffled
// runs single threads in an order drawn anew each time. Returns when no thread can go on.
void run_until_all_wait() {
  std::vector<int> turns(thread_count);
  std::iota(turns.begin(), turns.end(), 0);
  if (order == Order::kBackward) std::reverse(turns.begin(), turns.end());
  for (bool moved = true; moved;) {
    moved = false;
    if (order == Order::kShuffled) {
      shuffle(turns);
      for (int t : turns) moved |= run_if_ready(t);
      continue;
    }
    for (int first = 0; first < thread_count;) {
      int last = first + 1;
      while (last < thread_count && turns[last] / 32 == turns[first] / 32) ++last;
      for (bool warp_moved = true; warp_moved; moved |= warp_moved) {
        warp_moved = false;
        for (int turn = first; turn < last; ++turn) warp_moved |= run_if_ready(turns[turn]);
      }
      first = last;
    }
  }
}

void run_block() {
  for (int t = 0; t < thread_count; ++t) threads[t].state = State::kReady;
  while (error.empty()) {
    run_until_all_wait();
    if (!error.empty()) return;
    int live = 0, at_barrier = 0;
    for (int t = 0; t < thread_count; ++t) {
      live += threads[t].state != State::kDone;
      at_barrier += threads[t].state == State::kWaiting && is_barrier(threads[t]);
    }
    if (live == 0) return;
    if (at_barrier == live) release_barrier();
    else error = "deadlock: " + describe_all();
  }
}

// ---- memory ----------------------------------------------------------------------------------------------------------
void fill_with_garbage(void* data, size_t bytes) {
  unsigned char pattern[sizeof(kGarbage)];
  std::memcpy(pattern, &kGarbage, sizeof(kGarbage));
  auto* out = static_cast<unsigned char*>(data);
  for (size_t i = 0; i < bytes; ++i) out[i] = pattern[i % sizeof(kGarbage)];
}

bool is_garbage(const void* data, size_t bytes) {
  std::vector<unsigned char> pattern(bytes);
  fill_with_garbage(pattern.data(), bytes);
  return std::memcmp(data, pattern.data(), bytes) == 0;
}

// A tensor that an operator has made lies in a larger one, between two fences.
struct Fenced {
  Tensor whole;
  size_t bytes;  // between the fences

  bool intact() const {
    const auto* data = whole.data<unsigned char>();
    return is_garbage(data, kFenceBytes) && is_garbage(data + kFenceBytes + bytes, kFenceBytes);
  }
};

std::deque<Fenced> fenced;

thread_local volatile unsigned char marker;  // lies among the static __shared__ variables

struct Piece {
  void* data;
  size_t bytes;
};

// The thread-local memory of this library: all static __shared__ variables of its kernels.
Piece static_shared_memory() {
  marker = 0;  // memory of a library loaded later comes into being with its first use
  Piece piece{nullptr, 0};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* context) {
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& header = info->dlpi_phdr[i];
          auto* begin = static_cast<unsigned char*>(info->dlpi_tls_data);
          auto* mark = const_cast<unsigned char*>(&marker);
          if (header.p_type != PT_TLS || begin == nullptr || mark < begin || mark >= begin + header.p_memsz) continue;
          *static_cast<Piece*>(context) = {begin, header.p_memsz};
          return 1;
        }
        return 0;
      },
      &piece);
  PCT_CHECK(piece.data != nullptr, "emulation: the shared memory of this library cannot be found");
  return piece;
}

void check_configuration(const char* kernel, dim3 grid, dim3 block, int64_t bytes) {
  const int64_t size = int64_t{1} * block.x * block.y * block.z;
  PCT_CHECK(grid.x >= 1 && grid.y >= 1 && grid.z >= 1 && size >= 1, "emulated ", kernel, ": launch of nothing: ", grid.x,
            " x ", grid.y, " x ", grid.z, " blocks of ", size, " threads");
  PCT_CHECK(grid.x <= 0x7fffffffu && grid.y <= 65535 && grid.z <= 65535, "emulated ", kernel, ": grid too large: ",
            grid.x, " x ", grid.y, " x ", grid.z);
  PCT_CHECK(size <= kMaxThreads && block.z <= 64, "emulated ", kernel, ": block too large: ", size, " threads");
  PCT_CHECK(bytes >= 0 && bytes <= kMaxSharedBytes, "emulated ", kernel, ": ", bytes, " bytes of dynamic shared memory");
}

}  // namespace

void* dynamic_shared_memory() { return shared_bytes.data(); }

int lane() { return static_cast<int>(current - threads.data()) % 32; }

int barrier(Operation operation, bool predicate, Site site) {
  Thread* self = current;
  self->operation = operation;
  self->site = site;
  self->mask = 0;
  self->value = predicate;
  self->state = State::kWaiting;
  suspend();
  return static_cast<int>(self->result);
}

uint64_t warp_exchange(Operation operation, unsigned mask, uint64_t value, int source, Site site) {
  Thread* self = current;
  const int me = static_cast<int>(self - threads.data());
  self->operation = operation;
  self->site = site;
  self->mask = mask;
  self->value = value;
  self->source = source;
  if (!(mask >> (me % 32) & 1)) stop("the mask does not name its own lane: " + describe(me));
  if (operation == Operation::kShuffle && !(mask >> source & 1))
    stop("shuffle from lane " + std::to_string(source) + ", which the mask does not name: " + describe(me));
  self->state = State::kWaiting;
  const int first = me - me % 32;
  if (!complete(&threads[first], std::min(32, thread_count - first), mask, operation)) suspend();
  return self->result;
}

void launch(const char* kernel, dim3 grid, dim3 block, int64_t bytes, void (*body)(void*), void* context) {
  check_configuration(kernel, grid, block, bytes);
  std::lock_guard<std::mutex> lock(one_launch);
  thread_body = body;
  thread_context = context;
  gridDim = grid;
  blockDim = block;
  thread_count = static_cast<int>(block.x * block.y * block.z);
  const Piece static_memory = static_shared_memory();
  shared_bytes.resize(static_cast<size_t>(bytes + kFenceBytes));
  std::vector<int64_t> blocks(static_cast<size_t>(grid.x) * grid.y * grid.z);
  std::iota(blocks.begin(), blocks.end(), 0);
  if (order == Order::kBackward) std::reverse(blocks.begin(), blocks.end());
  if (order == Order::kShuffled) shuffle(blocks);
  error.clear();
  for (int64_t b : blocks) {
    blockIdx = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                static_cast<unsigned>(b / grid.x / grid.y)};
    fill_with_garbage(static_memory.data, static_memory.bytes);
    fill_with_garbage(shared_bytes.data(), shared_bytes.size());
    run_block();
    if (error.empty() && !is_garbage(shared_bytes.data() + bytes, kFenceBytes))
      error = "written past the end of its " + std::to_string(bytes) + " bytes of dynamic shared memory";
    for (const Fenced& tensor : fenced)
      if (error.empty() && !tensor.intact())
        error = "written in front of or behind a tensor of " + std::to_string(tensor.bytes) + " bytes";
    if (error.empty()) continue;
    fenced.clear();
    for (Thread& thread : threads) thread.started = false;  // whatever they were doing, they begin anew
    fail("emulated ", kernel, ", block (", blockIdx.x, ", ", blockIdx.y, ", ", blockIdx.z, "): ", error);
  }
}

// Called by what gcc puts around memory accesses and arithmetic; see FLAGS_OF_KERNELS in build.py.
void broken_rule(const char* rule, const void* data) {
  struct Place {
    const char* file;
    uint32_t line, column;
  };
  const Place& place = *static_cast<const Place*>(data);
  const char* slash = std::strrchr(place.file, '/');
  const std::string text =
      std::string(rule) + " (" + (slash ? slash + 1 : place.file) + ':' + std::to_string(place.line) + ')';
  if (current != nullptr) stop(text);
  std::fprintf(stderr, "emulated kernels, on the host: %s\n", text.c_str());
  std::abort();  // gcc takes it that no exception comes from here
}

}  // namespace emulation
}  // namespace pct

// ---- the runtime -----------------------------------------------------------------------------------------------------
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  if (pct::emulation::captured) pct::emulation::last_error = cudaErrorStreamCaptureUnsupported;
  return pct::emulation::captured ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

cudaError_t cudaGetLastError() { return std::exchange(pct::emulation::last_error, cudaSuccess); }

// ---- rules of memory and arithmetic, by the names that gcc calls ------------------------------------------------------
#define PCT_RULE(name, text) \
  void __ubsan_handle_##name(void* place, void*) { pct::emulation::broken_rule(text, place); }
#define PCT_RULE_OF_TWO(name, text) \
  void __ubsan_handle_##name(void* place, void*, void*) { pct::emulation::broken_rule(text, place); }
extern "C" {
PCT_RULE(type_mismatch_v1, "memory is read or written at an address that its type is not aligned to")
PCT_RULE(out_of_bounds, "an index is outside of its array")
PCT_RULE(float_cast_overflow, "a floating number does not fit into the integer it becomes")
PCT_RULE(negate_overflow, "a signed number overflows")
PCT_RULE_OF_TWO(add_overflow, "a signed number overflows")
PCT_RULE_OF_TWO(sub_overflow, "a signed number overflows")
PCT_RULE_OF_TWO(mul_overflow, "a signed number overflows")
PCT_RULE_OF_TWO(divrem_overflow, "a signed number overflows")
PCT_RULE_OF_TWO(shift_out_of_bounds, "a shift by more bits than there are")
}
#undef PCT_RULE
#undef PCT_RULE_OF_TWO

// ---- what the library sees of torch ----------------------------------------------------------------------------------
#undef aoti_torch_library_init_impl
#undef aoti_torch_empty_strided
extern "C" {
int32_t aoti_torch_library_init_impl(const char*, const char*, const char*, uint32_t, TorchLibraryOpaque**);
int32_t aoti_torch_empty_strided(int64_t, const int64_t*, const int64_t*, int32_t, int32_t, int32_t, AtenTensorOpaque**);
int32_t aoti_torch__reinterpret_tensor(
    AtenTensorOpaque*, int64_t, const int64_t*, const int64_t*, int64_t, AtenTensorOpaque**);

int32_t pct_emulated_check_msg(int32_t error, const char*, const char*, uint32_t, bool, char** message) {
  *message = strdup(("emulated CUDA error " + std::to_string(error)).c_str());
  return 0;
}

void pct_emulated_free_error_msg(char* message) { std::free(message); }

int32_t pct_emulated_library_init_impl(const char* space, const char*, const char* file, uint32_t line,
                                       TorchLibraryOpaque** library) {
  return aoti_torch_library_init_impl(space, "CPU", file, line, library);
}

int32_t pct_emulated_empty_strided(int64_t dims, const int64_t* sizes, const int64_t* strides, int32_t dtype,
                                   int32_t device_type, int32_t device_index, AtenTensorOpaque** tensor) {
  using namespace pct::emulation;
  int64_t numel = 1;
  for (int64_t axis = 0; axis < dims; ++axis) numel *= sizes[axis];
  const int64_t width = static_cast<int64_t>(aoti_torch_dtype_element_size(dtype));
  const int64_t whole_numel = numel + 2 * kFenceBytes / width, stride = 1;
  AtenTensorOpaque* handle = nullptr;
  int32_t status = aoti_torch_empty_strided(1, &whole_numel, &stride, dtype, device_type, device_index, &handle);
  if (status != 0) return status;
  pct::Tensor whole(handle);
  auto* data = whole.mutable_data<unsigned char>();
  fill_with_garbage(data, static_cast<size_t>(kFenceBytes + numel * width));
  fill_with_garbage(data + kFenceBytes + numel * width, kFenceBytes);
  status = aoti_torch__reinterpret_tensor(handle, dims, sizes, strides, kFenceBytes / width, tensor);
  if (status != 0) return status;
  std::lock_guard<std::mutex> lock(one_launch);
  fenced.push_back({std::move(whole), static_cast<size_t>(numel * width)});
  if (fenced.size() > kFencedTensors) fenced.pop_front();
  return 0;
}

// 0 forward, 1 backward, 2 shuffled; the seed starts the shuffling.
__attribute__((visibility("default"))) void pct_emulation_schedule(int order, uint64_t seed) {
  pct::emulation::order = static_cast<pct::emulation::Order>(order);
  pct::emulation::random_state = seed;
}

// Whether the stream is being captured into a graph.
__attribute__((visibility("default"))) void pct_emulation_capture(bool captured) { pct::emulation::captured = captured; }
}
