// Writing results that are larger than the caches: past them, so that memory is written once and never read for it.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "cpu/simd.h"

namespace pct {

// From this size on, the first rows written would have left the last-level cache, or most of it, before anybody reads them.
constexpr int64_t kStreamBytes = 16 << 20;

// memcpy of bytes that nobody reads soon: whole cache lines go past the cache. Followed by end_of_stream() at some time.
PCT_INLINE void copy_past_cache(char* out, const char* in, int64_t bytes) {
#if defined(__SSE2__)
  const int64_t head = std::min<int64_t>(bytes, -reinterpret_cast<intptr_t>(out) & 63);
  std::memcpy(out, in, head);
  out += head, in += head, bytes -= head;
  for (; bytes >= 64; out += 64, in += 64, bytes -= 64)
    for (int piece = 0; piece < 64; piece += 16)
      _mm_stream_si128(reinterpret_cast<__m128i*>(out + piece), _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + piece)));
#endif
  std::memcpy(out, in, bytes);
}

// What was streamed comes before what is written next.
inline void end_of_stream() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Makes rows [from, to) of `row_bytes` each at `out` (the place of row 0) with fill(target, begin, end), which writes rows
// begin to end at target. Large outputs are made in a buffer in the first-level cache and streamed from there.
template <class Fill>
void write_rows(char* out, int64_t from, int64_t to, int64_t row_bytes, bool stream, const Fill& fill) {
  constexpr int64_t kBuffer = 8 << 10;
  const int64_t batch = row_bytes > 0 ? kBuffer / row_bytes : 0;
  if (!stream || batch == 0) return fill(out + from * row_bytes, from, to);
  alignas(64) char buffer[kBuffer];
  for (int64_t begin = from; begin < to; begin += batch) {
    const int64_t end = std::min(to, begin + batch);
    fill(buffer, begin, end);
    copy_past_cache(out + begin * row_bytes, buffer, (end - begin) * row_bytes);
  }
  end_of_stream();
}

}  // namespace pct
