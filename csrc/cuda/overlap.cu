// Boxes on CUDA. The arithmetic of csrc/common/boxes.h, so results are those of the CPU, bit by bit.
//
// Non-maximum suppression: one block per cloud goes through its boxes from the best, a warp's worth at a time. All pairs
// within such a chunk are compared at once, one warp then decides which of them stay, and all threads compare these with
// the boxes behind the chunk. No matrix of all pairs is stored, and nothing depends on which thread is first.
#include <optional>

#include "checks.h"
#include "common/boxes.h"
#include "cuda/grid.h"
#include "cuda/launch.h"
#include "cuda/sort.h"

namespace pct {
namespace {

constexpr int kThreads = 256;
constexpr int kChunk = 32;  // boxes that are decided at a time: a warp's bits
constexpr int kFields = sizeof(Box) / sizeof(double);

__global__ void make_boxes_kernel(const float* __restrict__ values, int64_t count, Box* __restrict__ boxes) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) boxes[i] = make_box(values + 7 * i);
}

// (M, 9) float64 that holds a Box in each row
Tensor made_boxes(const Tensor& values, cudaStream_t stream) {
  const int64_t count = values.size(0);
  Tensor boxes = empty({count, kFields}, float64(), values);
  if (count > 0)
    PCT_LAUNCH(make_boxes_kernel, blocks_for(count, kThreads), kThreads, 0, stream, values.data<float>(), count,
               reinterpret_cast<Box*>(boxes.mutable_data<double>()));
  return boxes;
}

const Box* boxes_in(const Tensor& made) { return reinterpret_cast<const Box*>(made.data<double>()); }

// ---- how much boxes share --------------------------------------------------------------------------------------------
__global__ void box_iou_kernel(const Box* __restrict__ boxes, const Box* __restrict__ others, int64_t pairs, int64_t columns,
                               bool bird_eye, float* __restrict__ iou) {
  const int64_t pair = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (pair >= pairs) return;
  const bool aligned = columns == 0;
  const Box& one = boxes[aligned ? pair : pair / columns];
  const Box& two = others[aligned ? pair : pair % columns];
  const double dx = two.x - one.x, dy = two.y - one.y, reach = one.radius + two.radius;
  // most pairs are far apart, and then a warp is done here
  iou[pair] = dx * dx + dy * dy <= reach * reach ? intersection_over_union(one, two, bird_eye) : 0.0f;
}

Tensor box_iou_cuda(const Tensor& boxes, const Tensor& other_boxes, bool aligned, bool bird_eye) {
  check_box_iou(boxes, other_boxes, aligned);
  OnDeviceOf device(boxes);
  const int64_t m = boxes.size(0), n = other_boxes.size(0), pairs = aligned ? m : m * n;
  Tensor iou = aligned ? empty({m}, float32(), boxes) : empty({m, n}, float32(), boxes);
  if (pairs == 0) return iou;
  const Tensor rows = made_boxes(boxes, device.stream()), columns = made_boxes(other_boxes, device.stream());
  PCT_LAUNCH(box_iou_kernel, blocks_for(pairs, kThreads), kThreads, 0, device.stream(), boxes_in(rows), boxes_in(columns),
             pairs, aligned ? 0 : n, bird_eye, iou.mutable_data<float>());
  return iou;
}

// ---- points in boxes -------------------------------------------------------------------------------------------------
__global__ void points_in_boxes_kernel(const float* __restrict__ xyz, int64_t n, const int64_t* __restrict__ offsets,
                                       int64_t clouds, const Box* __restrict__ boxes, int64_t count,
                                       const int64_t* __restrict__ box_offsets, int64_t* __restrict__ index) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  const int64_t b = cloud_of(offsets, clouds, i);
  const int64_t begin = box_offsets[b] < 0 ? 0 : box_offsets[b], end = box_offsets[b + 1] < count ? box_offsets[b + 1] : count;
  const double x = xyz[3 * i], y = xyz[3 * i + 1], z = xyz[3 * i + 2];
  int64_t found = -1;
  for (int64_t row = begin; row < end && found < 0; ++row)
    if (holds(boxes[row], x, y, z)) found = row;
  index[i] = found;
}

Tensor points_in_boxes_cuda(const Tensor& xyz, const Tensor& offsets, const Tensor& boxes, const Tensor& box_offsets) {
  check_points_in_boxes(xyz, offsets, boxes, box_offsets);
  OnDeviceOf device(xyz);
  const int64_t n = xyz.size(0), clouds = offsets.size(0) - 1;
  Tensor index = empty({n}, int64(), xyz);
  if (n == 0 || clouds == 0) return index;
  const Tensor made = made_boxes(boxes, device.stream());
  PCT_LAUNCH(points_in_boxes_kernel, blocks_for(n, kThreads), kThreads, 0, device.stream(), xyz.data<float>(), n,
             offsets.data<int64_t>(), clouds, boxes_in(made), boxes.size(0), box_offsets.data<int64_t>(),
             index.mutable_data<int64_t>());
  return index;
}

// ---- which boxes to keep ---------------------------------------------------------------------------------------------
// Keys that ascend as scores descend. A NaN score, or a box that is none, comes last and is marked as taken away.
__global__ void score_keys_kernel(const float* __restrict__ scores, const Box* __restrict__ boxes, int64_t count,
                                  uint32_t* __restrict__ keys, int32_t* __restrict__ suppressed) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const float score = scores[i] + 0.0f;  // no negative zero
  const bool real = score - score == 0 && boxes[i].radius == boxes[i].radius;
  uint32_t bits;
  memcpy(&bits, &score, sizeof(bits));
  keys[i] = !real ? 0xffffffffu : bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
  suppressed[i] = !real;
}

__global__ void cloud_keys_kernel(const uint32_t* __restrict__ rows, int64_t count, const int64_t* __restrict__ offsets,
                                  int64_t clouds, uint32_t* __restrict__ keys) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) keys[i] = static_cast<uint32_t>(cloud_of(offsets, clouds, rows[i]));
}

__global__ void follow_kernel(const uint32_t* __restrict__ places, const uint32_t* __restrict__ rows, int64_t count,
                              uint32_t* __restrict__ order) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) order[i] = rows[places[i]];
}

struct Candidates {
  const Box* boxes;
  const int64_t* labels;  // may be null
  float threshold;
  bool bird_eye;

  __device__ bool suppresses(int64_t kept, int64_t other) const {
    if (labels != nullptr && labels[kept] != labels[other]) return false;
    const Box &one = boxes[kept], &two = boxes[other];
    const double dx = two.x - one.x, dy = two.y - one.y, reach = one.radius + two.radius;
    return dx * dx + dy * dy <= reach * reach && intersection_over_union(one, two, bird_eye) > threshold;
  }
};

// Writes the rows that cloud blockIdx.x keeps to kept[offsets[b]] and on, and how many they are to counts[b].
__global__ void suppress_kernel(Candidates candidates, const uint32_t* __restrict__ order, const int64_t* __restrict__ offsets,
                                int64_t count, int64_t max_outputs, int32_t* __restrict__ suppressed,
                                int64_t* __restrict__ kept, int64_t* __restrict__ counts) {
  __shared__ unsigned overlaps[kChunk];  // bit j of word i: box i of the chunk suppresses its box j > i
  __shared__ unsigned stay;              // bits of the chunk's boxes that are kept
  const int64_t b = blockIdx.x;
  const int64_t begin = offsets[b] < 0 ? 0 : offsets[b], end = offsets[b + 1] < count ? offsets[b + 1] : count;
  const int lane = threadIdx.x % 32;
  int64_t found = 0;
  for (int64_t first = begin; first < end && found < max_outputs; first += kChunk) {
    const int size = static_cast<int>(end - first < kChunk ? end - first : kChunk);
    for (int i = threadIdx.x / 32; i < kChunk; i += kThreads / 32) {  // a warp per box, a lane per other box
      const bool hit = i < size && lane < size && lane > i && !suppressed[order[first + i]] &&
                       !suppressed[order[first + lane]] && candidates.suppresses(order[first + i], order[first + lane]);
      const unsigned bits = __ballot_sync(kFullWarp, hit);
      if (lane == 0) overlaps[i] = bits;
    }
    __syncthreads();
    if (threadIdx.x < 32) {
      unsigned left = __ballot_sync(kFullWarp, lane < size && !suppressed[order[first + (lane < size ? lane : 0)]]);
      unsigned keep = 0;
      for (int64_t place = found; left != 0 && place < max_outputs; ++place) {
        const int i = __ffs(static_cast<int>(left)) - 1;
        keep |= 1u << i;
        left &= ~(overlaps[i] | 1u << i);
      }
      if (keep >> lane & 1) kept[begin + found + __popc(keep & ((1u << lane) - 1))] = order[first + lane];
      if (lane == 0) stay = keep;
    }
    __syncthreads();
    const unsigned keep = stay;
    found += __popc(keep);
    for (int64_t j = first + kChunk + threadIdx.x; j < end; j += kThreads) {
      const int64_t row = order[j];
      if (suppressed[row]) continue;
      bool gone = false;
      for (unsigned bits = keep; bits != 0 && !gone; bits &= bits - 1)
        gone = candidates.suppresses(order[first + __ffs(static_cast<int>(bits)) - 1], row);
      if (gone) suppressed[row] = 1;
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) counts[b] = found;
}

__global__ void sum_counts_kernel(const int64_t* __restrict__ counts, int64_t clouds, int64_t* __restrict__ offsets) {
  int64_t sum = 0;
  for (int64_t b = 0; b < clouds; ++b) {
    offsets[b] = sum;
    sum += counts[b];
  }
  offsets[clouds] = sum;
}

__global__ void pack_kernel(const int64_t* __restrict__ kept, const int64_t* __restrict__ offsets,
                            const int64_t* __restrict__ kept_offsets, int64_t clouds, int64_t total,
                            int64_t* __restrict__ index) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= total) return;
  const int64_t b = cloud_of(kept_offsets, clouds, i);
  index[i] = kept[(offsets[b] < 0 ? 0 : offsets[b]) + i - kept_offsets[b]];
}

std::tuple<Tensor, Tensor> box_nms_cuda(const Tensor& boxes, const Tensor& offsets, const Tensor& scores,
                                        const std::optional<Tensor>& labels, double threshold, int64_t max_outputs,
                                        bool bird_eye) {
  check_box_nms(boxes, offsets, scores, labels, threshold, max_outputs);
  OnDeviceOf device(boxes);
  const cudaStream_t stream = device.stream();
  const int64_t count = boxes.size(0), clouds = offsets.size(0) - 1;
  Tensor kept_offsets = zeros({clouds + 1}, int64(), boxes);
  if (count == 0 || clouds == 0) return {empty({0}, int64(), boxes), std::move(kept_offsets)};
  const int blocks = blocks_for(count, kThreads);
  const Tensor made = made_boxes(boxes, stream);

  // by score, then, keeping that order, by cloud
  Tensor keys = empty({count}, int32(), boxes), suppressed = empty({count}, int32(), boxes);
  PCT_LAUNCH(score_keys_kernel, blocks, kThreads, 0, stream, scores.data<float>(), boxes_in(made), count, words(keys),
             suppressed.mutable_data<int32_t>());
  SortedKeys sorted = stable_sort(std::move(keys), 32, stream);
  if (clouds > 1) {
    int bits = 1;
    while ((clouds >> bits) > 0) ++bits;
    Tensor cloud_keys = empty({count}, int32(), boxes), order = empty({count}, int32(), boxes);
    PCT_LAUNCH(cloud_keys_kernel, blocks, kThreads, 0, stream, words(sorted.rows), count, offsets.data<int64_t>(), clouds,
               words(cloud_keys));
    const SortedKeys by_cloud = stable_sort(std::move(cloud_keys), bits, stream);
    PCT_LAUNCH(follow_kernel, blocks, kThreads, 0, stream, words(by_cloud.rows), words(sorted.rows), count, words(order));
    sorted.rows = std::move(order);
  }

  Tensor kept = empty({count}, int64(), boxes), counts = empty({clouds}, int64(), boxes);
  const Candidates candidates{boxes_in(made), labels ? labels->data<int64_t>() : nullptr, static_cast<float>(threshold),
                              bird_eye};
  PCT_LAUNCH(suppress_kernel, blocks_for(clouds, 1), kThreads, 0, stream, candidates, words(sorted.rows),
             offsets.data<int64_t>(), count, max_outputs, suppressed.mutable_data<int32_t>(), kept.mutable_data<int64_t>(),
             counts.mutable_data<int64_t>());
  PCT_LAUNCH(sum_counts_kernel, 1, 1, 0, stream, counts.data<int64_t>(), clouds, kept_offsets.mutable_data<int64_t>());
  const int64_t total = read_back(kept_offsets.data<int64_t>() + clouds, stream);
  Tensor index = empty({total}, int64(), boxes);
  if (total > 0)
    PCT_LAUNCH(pack_kernel, blocks_for(total, kThreads), kThreads, 0, stream, kept.data<int64_t>(), offsets.data<int64_t>(),
               kept_offsets.data<int64_t>(), clouds, total, index.mutable_data<int64_t>());
  return {std::move(index), std::move(kept_offsets)};
}

const Registration kernels("CUDA", [](Library& library) {
  library.implement<&points_in_boxes_cuda>("points_in_boxes");
  library.implement<&box_iou_cuda>("box_iou");
  library.implement<&box_nms_cuda>("box_nms");
});

}  // namespace
}  // namespace pct
