// A tree of boxes over one cloud, sixteen wide: what searches on the CPU walk.
//
// The points are laid along a Hilbert curve and cut into blocks of sixteen, one vector register per coordinate; sixteen
// blocks make a node, sixteen nodes the next higher node, and so on up to one root (a packed R-tree: Kamel and
// Faloutsos, "On packing R-trees", 1993). Child c of node i is number 16 i + c of the level below: there are no
// pointers. Building is a radix sort, cheaper than the median splits of a kd-tree, and a query tests sixteen boxes at
// once.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "common/curves.h"
#include "common/neighbor_key.h"
#include "cpu/simd.h"

namespace pct {

constexpr int kWidth = 16;
constexpr int64_t kMaxCloudPoints = kNoRow;  // rows within a cloud are 32-bit

// sixteen points; unused lanes hold NaN, which no comparison with a distance lets through
struct alignas(64) PointBlock {
  float xyz[3][kWidth];
  uint32_t row[kWidth];
};

// sixteen boxes and the lowest row in each; an unused lane is infinitely far and has kNoRow
struct alignas(64) BoxNode {
  float low[3][kWidth], high[3][kWidth];
  uint32_t row[kWidth];
};

// An item of an order along the curve: the code in the high half, the row in the low half.
inline int64_t row_of(uint64_t item) { return static_cast<uint32_t>(item); }

namespace curve {

constexpr int kBits = 10;  // per axis
constexpr int64_t kRadixFrom = 200;  // below, comparisons beat counting
constexpr int64_t kCrowd = 128;  // points in one cell that are worth a finer curve of their own

// Sets the codes of n items from the places of their rows in the cube at `low`.
PCT_CLONES static void set_codes(const float* xyz, const float* low, float cells_per_metre, uint64_t* items,
                                 int64_t n) {
  constexpr int kLanes = 64;
  float place[3][kLanes] = {};
  uint32_t cell[3][kLanes];
  for (int64_t begin = 0; begin < n; begin += kLanes) {
    const int count = static_cast<int>(std::min<int64_t>(kLanes, n - begin));
    for (int i = 0; i < count; ++i)
      for (int a = 0; a < 3; ++a) place[a][i] = xyz[3 * row_of(items[begin + i]) + a] - low[a];
    for (int a = 0; a < 3; ++a)
      for (int i = 0; i < kLanes; ++i) cell[a][i] = static_cast<int32_t>(place[a][i] * cells_per_metre);
    for (int bit = kBits - 1; bit > 0; --bit)
      for (int i = 0; i < kLanes; ++i) undo_turn(cell[0][i], cell[1][i], cell[2][i], bit);
    for (int i = 0; i < count; ++i) {
      const uint64_t code = gray_to_binary(interleave_bits(cell[0][i], cell[1][i], cell[2][i]));
      items[begin + i] = code << 32 | row_of(items[begin + i]);
    }
  }
}

// Stable sort by code: rows of one code stay in ascending order.
inline void sort_items(uint64_t* items, uint64_t* scratch, int64_t n) {
  if (n < kRadixFrom) return std::sort(items, items + n);
  uint32_t starts[3][1 << kBits] = {};
  for (int64_t i = 0; i < n; ++i)
    for (int digit = 0; digit < 3; ++digit) ++starts[digit][items[i] >> (32 + kBits * digit) & ((1 << kBits) - 1)];
  for (int digit = 0; digit < 3; ++digit) {
    uint32_t sum = 0;
    for (uint32_t& start : starts[digit]) sum += std::exchange(start, sum);
    for (int64_t i = 0; i < n; ++i)
      scratch[starts[digit][items[i] >> (32 + kBits * digit) & ((1 << kBits) - 1)]++] = items[i];
    std::swap(items, scratch);
  }
  std::copy(items, items + n, scratch);  // three passes ended in the other array
}

// Lays items (in ascending rows) along the curve. A crowded cell (a far outlier has made the cube large) gets a finer
// curve of its own. Ends because the outermost points of a range always fall into different cells.
inline void lay(const float* xyz, uint64_t* items, uint64_t* scratch, int64_t n) {
  float low[3], high[3];
  for (int a = 0; a < 3; ++a) low[a] = std::numeric_limits<float>::infinity(), high[a] = -low[a];
  for (int64_t i = 0; i < n; ++i)
    for (int a = 0; a < 3; ++a) {
      const float x = xyz[3 * row_of(items[i]) + a];
      low[a] = std::min(low[a], x), high[a] = std::max(high[a], x);
    }
  const float extent = std::max({high[0] - low[0], high[1] - low[1], high[2] - low[2]});
  if (!(extent > 1e-30f && extent < 1e38f)) return;  // one place, or beyond float32's range: any order will do
  set_codes(xyz, low, ((1 << kBits) - 1) / extent, items, n);
  sort_items(items, scratch, n);
  for (int64_t begin = 0, end; begin < n; begin = end) {
    for (end = begin + 1; end < n && items[end] >> 32 == items[begin] >> 32;) ++end;
    if (end - begin > kCrowd) lay(xyz, items + begin, scratch, end - begin);
  }
}

}  // namespace curve

// The rows of (n, 3) coordinates in the order of a Hilbert curve, in the low halves of the items.
inline std::vector<uint64_t> hilbert_order(const float* xyz, int64_t n) {
  std::vector<uint64_t> items(n), scratch(n);
  for (int64_t i = 0; i < n; ++i) items[i] = i;
  curve::lay(xyz, items.data(), scratch.data(), n);
  return items;
}

class BoxTree {
 public:
  BoxTree() = default;
  BoxTree(const float* xyz, const std::vector<uint64_t>& order) : blocks_((order.size() + kWidth - 1) / kWidth) {
    const int64_t n = static_cast<int64_t>(order.size());
    int64_t boxes = static_cast<int64_t>(blocks_.size());
    std::vector<BoxNode> nodes = empty_nodes(boxes);
    for (int64_t b = 0; b < boxes; ++b) {
      BoxNode& node = nodes[b / kWidth];
      const int lane = b % kWidth;
      for (int i = 0; i < kWidth; ++i) {
        const int64_t place = b * kWidth + i;
        const uint32_t row = place < n ? static_cast<uint32_t>(order[place]) : kNoRow;
        blocks_[b].row[i] = row;
        for (int a = 0; a < 3; ++a) {
          const float x = place < n ? xyz[3 * static_cast<int64_t>(row) + a] : std::numeric_limits<float>::quiet_NaN();
          blocks_[b].xyz[a][i] = x;
          if (place >= n) continue;
          node.low[a][lane] = std::min(node.low[a][lane], x);
          node.high[a][lane] = std::max(node.high[a][lane], x);
        }
        node.row[lane] = std::min(node.row[lane], row);
      }
    }
    while (nodes.size() > 1) {
      levels_.push_back(std::move(nodes));
      const std::vector<BoxNode>& children = levels_.back();
      boxes = static_cast<int64_t>(children.size());
      nodes = empty_nodes(boxes);
      for (int64_t b = 0; b < boxes; ++b) {
        BoxNode& node = nodes[b / kWidth];
        const int lane = b % kWidth;
        for (int a = 0; a < 3; ++a) {
          node.low[a][lane] = *std::min_element(children[b].low[a], children[b].low[a] + kWidth);
          node.high[a][lane] = *std::max_element(children[b].high[a], children[b].high[a] + kWidth);
        }
        node.row[lane] = *std::min_element(children[b].row, children[b].row + kWidth);
      }
    }
    levels_.push_back(std::move(nodes));
  }

  int top() const { return static_cast<int>(levels_.size()) - 1; }
  bool empty() const { return blocks_.empty(); }
  const BoxNode& node(int level, int64_t i) const { return levels_[level][i]; }
  // the blocks under node i of level 0; there are as many as the node has lanes in use
  const PointBlock* blocks(int64_t i) const { return blocks_.data() + kWidth * i; }

 private:
  static std::vector<BoxNode> empty_nodes(int64_t boxes) {
    BoxNode empty;
    for (int a = 0; a < 3; ++a) {
      std::fill(empty.low[a], empty.low[a] + kWidth, std::numeric_limits<float>::infinity());
      std::fill(empty.high[a], empty.high[a] + kWidth, -std::numeric_limits<float>::infinity());
    }
    std::fill(empty.row, empty.row + kWidth, kNoRow);
    return std::vector<BoxNode>((boxes + kWidth - 1) / kWidth, empty);
  }

  std::vector<PointBlock> blocks_;
  std::vector<std::vector<BoxNode>> levels_;
};

}  // namespace pct
