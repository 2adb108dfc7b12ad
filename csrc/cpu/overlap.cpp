// Boxes on the CPU: which points are in them, how much they share, and which of them to keep.
//
// Pairs are first tried in float, many at a time, on circles around the boxes that are drawn a little too wide; the few that
// pass are computed as csrc/common/boxes.h says, again several at a time.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "checks.h"
#include "common/boxes.h"
#include "cpu/simd.h"
#include "cpu/values.h"

namespace pct {
namespace {

constexpr int64_t kBlock = 128;  // pairs that are tried on circles at a time
constexpr int64_t kLanes = 8;    // pairs that are computed at a time

void check_box_values(const Tensor& boxes, const char* op, const char* name) {
  const float* values = boxes.data<float>();
  check_finite(values, boxes.numel(), 7, op, name);
  for (int64_t i = 0; i < boxes.size(0); ++i) {
    const float* size = values + 7 * i + 3;
    PCT_VALUE_CHECK(size[0] >= 0 && size[1] >= 0 && size[2] >= 0, op, ": sizes must not be negative, but row ", i, " of ",
                    name, " is ", size[0], " x ", size[1], " x ", size[2]);
  }
}

std::vector<Box> make_boxes(const Tensor& boxes) {
  std::vector<Box> made(boxes.size(0));
  for (size_t i = 0; i < made.size(); ++i) made[i] = make_box(boxes.data<float>() + 7 * i);
  return made;
}

// What pairs are tried on, padded to whole blocks with boxes that are near nothing.
struct Circles {
  std::vector<float> x, y, radius, size;  // size is the area or the volume
  std::vector<int64_t> label;

  explicit Circles(int64_t capacity) {
    const int64_t padded = (capacity + kBlock - 1) / kBlock * kBlock;
    for (std::vector<float>* values : {&x, &y, &size}) values->assign(padded, 0.0f);
    radius.assign(padded, NAN);
    label.assign(padded, 0);
  }
  void set(int64_t place, const Box& box, bool bird_eye, int64_t group = 0) {
    x[place] = static_cast<float>(box.x), y[place] = static_cast<float>(box.y);
    radius[place] = static_cast<float>(box.radius) * 1.000001f;
    size[place] = static_cast<float>(bird_eye ? base_of(box) : volume_of(box));
    label[place] = group;
  }
};

struct Circle {
  float x, y, radius, size;
};

// Which of kBlock circles may meet one circle, and whether any does.
PCT_CLONES int32_t meet(const float* x, const float* y, const float* radius, const Circle& one, int32_t* meets) {
  int32_t any = 0;
  for (int64_t j = 0; j < kBlock; ++j) {
    const float dx = x[j] - one.x, dy = y[j] - one.y, reach = radius[j] + one.radius;
    // a little more than float rounding can err
    meets[j] = dx * dx + dy * dy <= reach * reach * 1.00001f + 1e-37f;
    any |= meets[j];
  }
  return any;
}

// The same for boxes whose sizes are alike enough to share more than `threshold`.
PCT_CLONES int32_t meet_alike(const float* x, const float* y, const float* radius, const float* size, const Circle& one,
                              float threshold, int32_t* meets) {
  int32_t any = 0;
  for (int64_t j = 0; j < kBlock; ++j) {
    const float dx = x[j] - one.x, dy = y[j] - one.y, reach = radius[j] + one.radius;
    const float least = size[j] < one.size ? size[j] : one.size, most = size[j] < one.size ? one.size : size[j];
    const int32_t close = dx * dx + dy * dy <= reach * reach * 1.00001f + 1e-37f;
    const int32_t differ = least < threshold * most - 1e-30f;
    meets[j] = close & (differ ^ 1);
    any |= meets[j];
  }
  return any;
}

struct Lanes {
  double values[9][kLanes];

  void set(int64_t lane, const Box& box) {
    const double fields[9] = {box.x, box.y, box.z, box.half_x, box.half_y, box.half_z, box.cosine, box.sine, box.radius};
    for (int field = 0; field < 9; ++field) values[field][lane] = fields[field];
  }
};

template <bool kBirdEye>
PCT_CLONES void overlaps(const Lanes& ones, const Lanes& twos, float* iou) {
  const auto &a = ones.values, &b = twos.values;
  for (int64_t j = 0; j < kLanes; ++j) {
    const Box one{a[0][j], a[1][j], a[2][j], a[3][j], a[4][j], a[5][j], a[6][j], a[7][j], a[8][j]};
    const Box two{b[0][j], b[1][j], b[2][j], b[3][j], b[4][j], b[5][j], b[6][j], b[7][j], b[8][j]};
    iou[j] = intersection_over_union(one, two, kBirdEye);
  }
}

// Collects pairs and computes them kLanes at a time: done(tag, iou) for each.
template <class Done>
class Pairs {
  const bool bird_eye_;
  const Done done_;
  Lanes ones_{}, twos_{};
  int64_t tags_[kLanes], count_ = 0;

 public:
  Pairs(bool bird_eye, const Done& done) : bird_eye_(bird_eye), done_(done) {}

  void add(const Box& one, const Box& two, int64_t tag) {
    ones_.set(count_, one), twos_.set(count_, two);
    tags_[count_++] = tag;
    if (count_ == kLanes) flush();
  }
  void flush() {
    float iou[kLanes];
    if (count_ == 0) return;
    bird_eye_ ? overlaps<true>(ones_, twos_, iou) : overlaps<false>(ones_, twos_, iou);
    for (int64_t j = 0; j < count_; ++j) done_(tags_[j], iou[j]);
    count_ = 0;
  }
};

// ---- how much boxes share --------------------------------------------------------------------------------------------
Tensor box_iou_cpu(const Tensor& boxes, const Tensor& other_boxes, bool aligned, bool bird_eye) {
  check_box_iou(boxes, other_boxes, aligned);
  check_box_values(boxes, "box_iou", "boxes");
  check_box_values(other_boxes, "box_iou", "other_boxes");
  const std::vector<Box> rows = make_boxes(boxes), columns = make_boxes(other_boxes);
  const int64_t m = boxes.size(0), n = other_boxes.size(0);
  if (aligned) {
    Tensor iou = empty({m}, float32(), boxes);
    float* out = iou.mutable_data<float>();
    parallel_for(0, m, 1024, [&](int64_t from, int64_t to) {
      const auto store = [&](int64_t row, float value) { out[row] = value; };
      Pairs<decltype(store)> pairs(bird_eye, store);
      for (int64_t i = from; i < to; ++i) pairs.add(rows[i], columns[i], i);
      pairs.flush();
    });
    return iou;
  }
  Tensor iou = empty({m, n}, float32(), boxes);
  float* out = iou.mutable_data<float>();
  Circles circles(n);
  for (int64_t j = 0; j < n; ++j) circles.set(j, columns[j], bird_eye);
  parallel_for(0, m, std::max<int64_t>(1, (1 << 16) / std::max<int64_t>(n, 1)), [&](int64_t from, int64_t to) {
    const auto store = [&](int64_t place, float value) { out[place] = value; };
    Pairs<decltype(store)> pairs(bird_eye, store);
    int32_t meets[kBlock];
    for (int64_t i = from; i < to; ++i) {
      std::fill(out + i * n, out + (i + 1) * n, 0.0f);
      const Circle one{static_cast<float>(rows[i].x), static_cast<float>(rows[i].y),
                       static_cast<float>(rows[i].radius) * 1.000001f, 0};
      for (int64_t j = 0; j < n; j += kBlock) {
        if (!meet(&circles.x[j], &circles.y[j], &circles.radius[j], one, meets)) continue;
        for (int64_t k = 0; k < kBlock; ++k)
          if (meets[k]) pairs.add(rows[i], columns[j + k], i * n + j + k);
      }
    }
    pairs.flush();
  });
  return iou;
}

// ---- which boxes to keep ---------------------------------------------------------------------------------------------
// The rows [begin, end) by descending score, equal scores by ascending row.
std::vector<uint64_t> by_score(const float* scores, int64_t begin, int64_t end) {
  std::vector<uint64_t> order(end - begin);
  for (int64_t i = begin; i < end; ++i) {
    const float score = scores[i] + 0.0f;  // no negative zero
    uint32_t bits;
    std::memcpy(&bits, &score, sizeof(bits));
    bits = bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;  // ascending as scores descend
    order[i - begin] = static_cast<uint64_t>(bits) << 32 | static_cast<uint32_t>(i - begin);
  }
  std::sort(order.begin(), order.end());
  return order;
}

// Greedy: a box is kept unless one that was kept shares more than the threshold with it.
std::vector<int64_t> keep(const std::vector<Box>& boxes, int64_t begin, int64_t end, const float* scores,
                          const int64_t* labels, float threshold, int64_t max_outputs, bool bird_eye) {
  std::vector<int64_t> kept;
  Circles circles(std::min(end - begin, max_outputs));
  int32_t meets[kBlock];
  bool suppressed = false;
  const auto compare = [&](int64_t, float iou) { suppressed |= iou > threshold; };
  Pairs<decltype(compare)> pairs(bird_eye, compare);
  for (const uint64_t key : by_score(scores, begin, end)) {
    const int64_t row = begin + static_cast<int64_t>(key & 0xffffffffu), count = static_cast<int64_t>(kept.size());
    if (count == max_outputs) break;
    const Box& box = boxes[row];
    const int64_t label = labels ? labels[row] : 0;
    circles.set(count, box, bird_eye, label);
    const Circle one{circles.x[count], circles.y[count], circles.radius[count], circles.size[count]};
    circles.radius[count] = NAN;  // not kept yet
    suppressed = false;
    for (int64_t j = 0; j < count && !suppressed; j += kBlock) {
      if (!meet_alike(&circles.x[j], &circles.y[j], &circles.radius[j], &circles.size[j], one, threshold * 0.9999f, meets))
        continue;
      for (int64_t k = 0; k < kBlock; ++k)
        if (meets[k] && circles.label[j + k] == label) pairs.add(boxes[kept[j + k]], box, 0);
    }
    pairs.flush();
    if (suppressed) continue;
    circles.radius[count] = one.radius;
    kept.push_back(row);
  }
  return kept;
}

std::tuple<Tensor, Tensor> box_nms_cpu(const Tensor& boxes, const Tensor& offsets, const Tensor& scores,
                                       const std::optional<Tensor>& labels, double threshold, int64_t max_outputs,
                                       bool bird_eye) {
  check_box_nms(boxes, offsets, scores, labels, threshold, max_outputs);
  const char* op = "box_nms";
  const int64_t clouds = offsets.size(0) - 1;
  const int64_t* rows = offsets.data<int64_t>();
  check_offset_values(rows, clouds, boxes.size(0), op, "offsets");
  check_box_values(boxes, op, "boxes");
  check_finite(scores.data<float>(), scores.numel(), 1, op, "scores");
  const std::vector<Box> made = make_boxes(boxes);
  std::vector<std::vector<int64_t>> kept(clouds);
  parallel_for(0, clouds, 1, [&](int64_t from, int64_t to) {
    for (int64_t b = from; b < to; ++b)
      kept[b] = keep(made, rows[b], rows[b + 1], scores.data<float>(), labels ? labels->data<int64_t>() : nullptr,
                     static_cast<float>(threshold), max_outputs, bird_eye);
  });
  Tensor kept_offsets = empty({clouds + 1}, int64(), boxes);
  int64_t* ends = kept_offsets.mutable_data<int64_t>();
  ends[0] = 0;
  for (int64_t b = 0; b < clouds; ++b) ends[b + 1] = ends[b] + static_cast<int64_t>(kept[b].size());
  Tensor index = empty({ends[clouds]}, int64(), boxes);
  for (int64_t b = 0; b < clouds; ++b) std::copy(kept[b].begin(), kept[b].end(), index.mutable_data<int64_t>() + ends[b]);
  return {std::move(index), std::move(kept_offsets)};
}

// ---- points in boxes -------------------------------------------------------------------------------------------------
// The boxes of one cloud on a grid, seen from above: every cell names the boxes that may reach into it, in ascending order.
struct BoxGrid {
  double low[2], cells_per_metre[2];
  int32_t side;                           // cells along each axis; cell side * side is everything around them
  std::vector<int32_t> begins, members;  // cell c names members[begins[c]] up to members[begins[c + 1]]

  // Never decreases with x, rounding included: what lies between a and b is in a cell between cell(a) and cell(b).
  int32_t cell(int axis, double x) const {
    return static_cast<int32_t>(std::min(std::max((x - low[axis]) * cells_per_metre[axis], 0.0), side - 1.0));
  }
};

constexpr int64_t kPointBlock = 256;

PCT_CLONES void find_cells(const float* xyz, int64_t n, const BoxGrid& grid, int32_t* cells) {
  const double low_x = grid.low[0], low_y = grid.low[1], side = grid.side;
  const double scale_x = grid.cells_per_metre[0], scale_y = grid.cells_per_metre[1];
  const int32_t stride = grid.side;
  for (int64_t i = 0; i < n; ++i) {
    const double x = (xyz[3 * i] - low_x) * scale_x, y = (xyz[3 * i + 1] - low_y) * scale_y;
    const bool inside = (x >= 0) & (x < side) & (y >= 0) & (y < side);
    cells[i] = static_cast<int32_t>(inside ? y : side) * stride + static_cast<int32_t>(inside ? x : 0.0);
  }
}

BoxGrid make_grid(const Box* boxes, int64_t count, int64_t points) {
  constexpr int32_t kLargestSide = 128;
  struct Span {
    double low[2], high[2];
  };
  std::vector<Span> spans(count);
  BoxGrid grid;
  double high[2] = {-INFINITY, -INFINITY};
  grid.low[0] = grid.low[1] = INFINITY;
  for (int64_t i = 0; i < count; ++i) {
    const Box& box = boxes[i];
    const double centre[2] = {box.x, box.y}, cosine = std::abs(box.cosine), sine = std::abs(box.sine);
    const double reach[2] = {box.half_x * cosine + box.half_y * sine, box.half_x * sine + box.half_y * cosine};
    for (int axis = 0; axis < 2; ++axis) {  // wider than rounding can err
      const double margin = 1e-9 * (std::abs(centre[axis]) + reach[axis]) + 1e-60;
      spans[i].low[axis] = centre[axis] - reach[axis] - margin;
      spans[i].high[axis] = centre[axis] + reach[axis] + margin;
      grid.low[axis] = std::min(grid.low[axis], spans[i].low[axis]);
      high[axis] = std::max(high[axis], spans[i].high[axis]);
    }
  }
  const auto for_cells_of = [&](int64_t i, const auto& visit) {
    const int32_t x0 = grid.cell(0, spans[i].low[0]), x1 = grid.cell(0, spans[i].high[0]);
    const int32_t y0 = grid.cell(1, spans[i].low[1]), y1 = grid.cell(1, spans[i].high[1]);
    for (int32_t y = y0; y <= y1; ++y)
      for (int32_t x = x0; x <= x1; ++x) visit(y * grid.side + x);
  };
  // As fine as pays: the cells and the names in them must be few beside the points.
  int64_t names;
  for (grid.side = kLargestSide;; grid.side /= 2) {
    for (int axis = 0; axis < 2; ++axis)
      grid.cells_per_metre[axis] = grid.side / (high[axis] - grid.low[axis]) * (1 - 1e-9);
    names = 0;
    for (int64_t i = 0; i < count; ++i)
      names += int64_t(grid.cell(0, spans[i].high[0]) - grid.cell(0, spans[i].low[0]) + 1) *
               (grid.cell(1, spans[i].high[1]) - grid.cell(1, spans[i].low[1]) + 1);
    if (grid.side == 1 || names + int64_t(grid.side) * grid.side <= points / 4) break;
  }
  grid.begins.assign(grid.side * grid.side + 2, 0);
  for (int64_t i = 0; i < count; ++i) for_cells_of(i, [&](int32_t cell) { ++grid.begins[cell]; });
  int32_t end = 0;
  for (int32_t& begin : grid.begins) begin = end += begin;  // where each cell ends
  grid.members.resize(names);
  for (int64_t i = count - 1; i >= 0; --i)  // from the last one, so that names ascend
    for_cells_of(i, [&](int32_t cell) { grid.members[--grid.begins[cell]] = static_cast<int32_t>(i); });
  return grid;
}

Tensor points_in_boxes_cpu(const Tensor& xyz, const Tensor& offsets, const Tensor& boxes, const Tensor& box_offsets) {
  check_points_in_boxes(xyz, offsets, boxes, box_offsets);
  const char* op = "points_in_boxes";
  const int64_t clouds = offsets.size(0) - 1, n = xyz.size(0);
  const int64_t *rows = offsets.data<int64_t>(), *box_rows = box_offsets.data<int64_t>();
  const float* points = xyz.data<float>();
  check_offset_values(rows, clouds, n, op, "offsets");
  check_offset_values(box_rows, clouds, boxes.size(0), op, "box_offsets");
  check_finite(points, xyz.numel(), 3, op, "xyz");
  check_box_values(boxes, op, "boxes");
  const std::vector<Box> made = make_boxes(boxes);
  std::vector<BoxGrid> grids(clouds);
  for (int64_t b = 0; b < clouds; ++b)
    if (box_rows[b] < box_rows[b + 1] && rows[b] < rows[b + 1])
      grids[b] = make_grid(made.data() + box_rows[b], box_rows[b + 1] - box_rows[b], rows[b + 1] - rows[b]);
  Tensor index = empty({n}, int64(), xyz);
  int64_t* out = index.mutable_data<int64_t>();
  parallel_for(0, n, 1 << 14, [&](int64_t from, int64_t to) {
    int32_t cells[kPointBlock];
    int64_t b = std::upper_bound(rows, rows + clouds + 1, from) - rows - 1;
    for (int64_t i = from, end; i < to; i = end) {
      while (i >= rows[b + 1]) ++b;
      end = std::min({i + kPointBlock, to, rows[b + 1]});
      std::fill(out + i, out + end, -1);
      const BoxGrid& grid = grids[b];
      if (grid.begins.empty()) continue;
      find_cells(points + 3 * i, end - i, grid, cells);
      for (int64_t p = i; p < end; ++p) {
        const int32_t last = grid.begins[cells[p - i] + 1];
        for (int32_t member = grid.begins[cells[p - i]]; member < last; ++member) {
          const int64_t row = box_rows[b] + grid.members[member];
          if (!holds(made[row], points[3 * p], points[3 * p + 1], points[3 * p + 2])) continue;
          out[p] = row;
          break;
        }
      }
    }
  });
  return index;
}

const Registration kernels("CPU", [](Library& library) {
  library.implement<&points_in_boxes_cpu>("points_in_boxes");
  library.implement<&box_iou_cpu>("box_iou");
  library.implement<&box_nms_cpu>("box_nms");
});

}  // namespace
}  // namespace pct
