// A stable sort of 32-bit keys on CUDA, without host synchronisation, atomics between blocks or any library: equal keys keep
// their order, so whatever is built on it (cells of a grid, voxels) comes out the same on every run.
#pragma once
#include "cuda/launch.h"

namespace pct {

struct SortedKeys {
  Tensor keys;  // (n,) the keys in ascending order, 32-bit words read as unsigned
  Tensor rows;  // (n,) rows[i] is where keys[i] stood before
};

// int32 storage as unsigned words
inline uint32_t* words(const Tensor& tensor) { return reinterpret_cast<uint32_t*>(tensor.mutable_data<int32_t>()); }

// Least significant digit first, over the lowest `bits` bits of n < 2^31 keys. `keys` is int32 storage and is used up.
SortedKeys stable_sort(Tensor keys, int bits, cudaStream_t stream);

// Replaces every value by the sum of those before it, modulo 2^32. `values` is int32 storage.
void sum_before(const Tensor& values, cudaStream_t stream);

}  // namespace pct
