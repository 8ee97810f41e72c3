#include "kernels/kv_features.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/base/checked.h"
#include "core/base/dtype.h"
#include "core/base/error.h"
#include "kernels/dispatch.h"
#include "kernels/kv_side.h"

namespace ashlar {
namespace {

constexpr int64_t kRows = 16;  // decoded at once

/// Σ f(i) over i < n in eight chains, then their tree.
template <typename F>
double sum_of(int64_t n, F f) {
  double s[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int64_t l = 0; l < 8; ++l) s[l] += f(i + l);
  }
  for (int64_t l = 0; i < n; ++i, ++l) s[l] += f(i);
  return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

double norm_of(const float* x, int64_t n) {
  return std::sqrt(sum_of(n, [&](int64_t i) { return static_cast<double>(x[i]) * x[i]; }));
}
double dot_of(const float* x, const float* y, int64_t n) {
  return sum_of(n, [&](int64_t i) { return static_cast<double>(x[i]) * y[i]; });
}

/// Which sides a feature reads, and where decoded rows may lie.
struct Reader {
  int64_t key_dim = 0, value_dim = 0;
  bool want_keys = false, want_values = false;
  float* keys = nullptr;
  float* values = nullptr;
};

/// Calls f(slot, key, value) for slots [first, end) of a run that begins at `slot0`.
template <typename F>
void for_run_rows(const KvRun& run, int64_t slot0, int64_t first, int64_t end, const Reader& r,
                  F f) {
  const KernelTable& kernels = active_kernels();
  ASHLAR_CHECK(run.key_channels == nullptr);  // no policy sees segments
  const KvSide key{run.key_codec, !run.value_in_key, run.page_rows, r.key_dim};
  const KvSide value{run.value_codec, false, run.page_rows, r.value_dim};
  for (int64_t slot = first; slot < end;) {
    const int64_t at = run.first + slot - slot0, row = at % run.page_rows;
    const int64_t n = std::min({kRows, run.page_rows - row, end - slot});
    const std::byte* page = run.pages[at / run.page_rows];
    const bool own_value = r.want_values && !run.value_in_key;
    if (r.want_keys || run.value_in_key) {
      kernels.kv_decode(key, page + run.key_offset, row, n, r.keys, key.dim);
    }
    if (own_value) {
      kernels.kv_decode(value, page + run.value_offset, row, n, r.values, r.value_dim);
    }
    for (int64_t i = 0; i < n; ++i) {
      const float* k = r.keys + i * key.dim;
      f(slot + i, k, own_value ? r.values + i * r.value_dim : k);
    }
    slot += n;
  }
}

/// Calls f(slot, key, value) for slots [first, end) of a view, ascending.
template <typename F>
void for_rows(const KvHeadView& kv, int64_t first, int64_t end, const Reader& r, F f) {
  int64_t slot = 0;
  ASHLAR_CHECK(kv.segment_runs == 0);
  for (int64_t i = 0; i < kv.run_count; slot += kv.runs[i++].rows) {
    const KvRun& run = kv.runs[i];
    for_run_rows(run, slot, std::max(first, slot), std::min(end, slot + run.rows), r, f);
  }
  for (int64_t s = std::max(first, slot); s < end; ++s) {
    const int64_t row = s - slot;
    f(s, r.want_keys ? kv.raw_keys + row * kv.raw_key_stride : nullptr,
      r.want_values ? kv.raw_values + row * kv.raw_value_stride : nullptr);
  }
}

Reader reader(int64_t key_dim, int64_t value_dim, bool want_keys, bool want_values,
              std::byte* scratch) {
  auto* rows = reinterpret_cast<float*>(scratch);
  return {key_dim,     value_dim, want_keys,
          want_values, rows,      rows + kRows * std::max(key_dim, value_dim)};
}
Reader keys_reader(int64_t key_dim, std::byte* scratch) {
  return reader(key_dim, 0, true, false, scratch);
}

/// Directed rounding of x to float and of that to fp16.
float float_up(double x) {
  const float f = static_cast<float>(x);
  return f < x ? std::nextafter(f, std::numeric_limits<float>::infinity()) : f;
}
uint16_t half_up(double x) {
  const float f = float_up(x);
  const uint16_t h = float_to_half(f);
  if (!(half_to_float(h) < f)) return h;
  if ((h & 0x8000u) == 0) return static_cast<uint16_t>(h + 1);
  return (h & 0x7fffu) == 0 ? uint16_t{1} : static_cast<uint16_t>(h - 1);
}

enum class Round { kNearest, kUp, kDown };

/// Writes number i of a digest.
void put(std::byte* digest, bool half, int64_t i, double x, Round round) {
  if (half) {
    const uint16_t h = round == Round::kNearest ? float_to_half(static_cast<float>(x))
                       : round == Round::kUp    ? half_up(x)
                                                : static_cast<uint16_t>(half_up(-x) ^ 0x8000u);
    std::memcpy(digest + 2 * i, &h, 2);
    return;
  }
  const float f = round == Round::kNearest ? static_cast<float>(x)
                  : round == Round::kUp    ? float_up(x)
                                           : -float_up(-x);
  std::memcpy(digest + 4 * i, &f, 4);
}
double number(const std::byte* digest, bool half, int64_t i) {
  if (half) {
    uint16_t h = 0;
    std::memcpy(&h, digest + 2 * i, 2);
    return half_to_float(h);
  }
  float f = 0;
  std::memcpy(&f, digest + 4 * i, 4);
  return f;
}

bool is_cuboid(DigestKind kind) { return kind <= DigestKind::kCuboidMean; }

/// ρ of smallest, largest and mean distance: variant 0 the largest, 1 the middle, 2 the mean.
double radius_of(int variant, double low, double high, double mean) {
  return variant == 0 ? high : variant == 1 ? (low + high) / 2 : mean;
}

/// Doubles per channel, behind the decoded rows: smallest, largest and summed key, then smallest
/// and largest distance from a centre.
struct Channels {
  double *low, *high, *sum, *near, *far;
};
Channels channels(int64_t dim, std::byte* scratch) {
  auto* p = reinterpret_cast<double*>(scratch + 2 * kRows * dim * 4);
  return {p, p + dim, p + 2 * dim, p + 3 * dim, p + 4 * dim};
}

constexpr double kInfinity = std::numeric_limits<double>::infinity();

void cuboid_digest(const DigestShape& s, const KvHeadView& kv, int64_t first, int64_t rows,
                   const Channels& box, std::byte* digest, std::byte* scratch) {
  if (s.kind == DigestKind::kCuboidMax) {
    for (int64_t i = 0; i < s.dim; ++i) {
      put(digest, s.half, i, box.high[i], Round::kUp);
      put(digest, s.half, s.dim + i, box.low[i], Round::kDown);
    }
    return;
  }
  std::fill_n(box.near, s.dim, kInfinity);
  std::fill_n(box.far, s.dim, 0.0);
  std::fill_n(box.sum, s.dim, 0.0);
  for_rows(kv, first, first + rows, keys_reader(s.dim, scratch),
           [&](int64_t, const float* key, const float*) {
             for (int64_t i = 0; i < s.dim; ++i) {
               const double d = std::abs((box.low[i] + box.high[i]) / 2 - key[i]);
               box.near[i] = std::min(box.near[i], d);
               box.far[i] = std::max(box.far[i], d);
               box.sum[i] += d;
             }
           });
  for (int64_t i = 0; i < s.dim; ++i) {
    const double centre = (box.low[i] + box.high[i]) / 2;
    const double radius = radius_of(static_cast<int>(s.kind), box.near[i], box.far[i],
                                    box.sum[i] / static_cast<double>(rows));
    put(digest, s.half, i, centre + radius, Round::kNearest);
    put(digest, s.half, s.dim + i, centre - radius, Round::kNearest);
  }
}

void sphere_digest(const DigestShape& s, const KvHeadView& kv, int64_t first, int64_t rows,
                   const Channels& box, std::byte* digest, std::byte* scratch) {
  for (int64_t i = 0; i < s.dim; ++i) {
    const double centre = s.about == DigestAbout::kCentroid ? box.sum[i] / static_cast<double>(rows)
                                                            : (box.low[i] + box.high[i]) / 2;
    put(digest, s.half, i, centre, Round::kNearest);
  }
  // Distances from the centre as it is stored.
  double low = kInfinity, high = 0, sum = 0;
  for_rows(kv, first, first + rows, keys_reader(s.dim, scratch),
           [&](int64_t, const float* key, const float*) {
             const double d = std::sqrt(sum_of(s.dim, [&](int64_t i) {
               const double x = number(digest, s.half, i) - key[i];
               return x * x;
             }));
             low = std::min(low, d);
             high = std::max(high, d);
             sum += d;
           });
  const int variant = static_cast<int>(s.kind) - static_cast<int>(DigestKind::kSphereMax);
  put(digest, s.half, s.dim, radius_of(variant, low, high, sum / static_cast<double>(rows)),
      variant == 0 ? Round::kUp : Round::kNearest);
}

}  // namespace

int64_t kv_features_scratch_bytes(int64_t key_dim, int64_t value_dim) {
  ASHLAR_CHECK(key_dim >= 1 && value_dim >= 0);
  const int64_t dim = std::max(key_dim, value_dim);
  return round_up(checked_mul(dim, 2 * kRows * 4 + 5 * 8, "kv features scratch"), 64);
}

void kv_norms(const KvHeadView& kv, int64_t raw, int64_t key_dim, int64_t value_dim,
              float* key_norms, float* value_norms, std::byte* scratch) {
  const Reader r =
      reader(key_dim, value_dim, key_norms != nullptr, value_norms != nullptr, scratch);
  for_rows(kv, 0, kv.encoded() + raw, r, [&](int64_t slot, const float* key, const float* value) {
    if (key_norms != nullptr) key_norms[slot] = static_cast<float>(norm_of(key, key_dim));
    if (value_norms != nullptr) value_norms[slot] = static_cast<float>(norm_of(value, value_dim));
  });
}

void kv_key_dots(const KvHeadView& kv, int64_t raw, int64_t key_dim, const float* direction,
                 float* dots, std::byte* scratch) {
  for_rows(kv, 0, kv.encoded() + raw, keys_reader(key_dim, scratch),
           [&](int64_t slot, const float* key, const float*) {
             dots[slot] = static_cast<float>(dot_of(key, direction, key_dim));
           });
}

void kv_key_cosines(const KvHeadView& kv, int64_t raw, int64_t key_dim, const float* direction,
                    float* cosines, std::byte* scratch) {
  const double length = norm_of(direction, key_dim);
  for_rows(kv, 0, kv.encoded() + raw, keys_reader(key_dim, scratch),
           [&](int64_t slot, const float* key, const float*) {
             const double norms = length * norm_of(key, key_dim);
             const double dot = dot_of(key, direction, key_dim);
             cosines[slot] = norms == 0 ? 0.0f : static_cast<float>(dot / norms);
           });
}

void kv_mean_direction(const KvHeadView& kv, int64_t raw, int64_t key_dim, float* mean,
                       std::byte* scratch) {
  const int64_t slots = kv.encoded() + raw;
  ASHLAR_CHECK_GE(slots, 1);
  const Channels sums = channels(key_dim, scratch);
  std::fill_n(sums.sum, key_dim, 0.0);
  for_rows(kv, 0, slots, keys_reader(key_dim, scratch),
           [&](int64_t, const float* key, const float*) {
             const double norm = norm_of(key, key_dim);
             if (norm == 0) return;
             for (int64_t i = 0; i < key_dim; ++i) sums.sum[i] += key[i] / norm;
           });
  for (int64_t i = 0; i < key_dim; ++i) {
    mean[i] = static_cast<float>(sums.sum[i] / static_cast<double>(slots));
  }
}

int64_t digest_numbers(const DigestShape& shape) {
  ASHLAR_CHECK_GE(shape.dim, 1);
  return is_cuboid(shape.kind) ? 2 * shape.dim : shape.dim + 1;
}

int64_t digest_bytes(const DigestShape& shape) {
  return digest_numbers(shape) * (shape.half ? 2 : 4);
}

void digest_keys(const DigestShape& shape, const KvHeadView& kv, int64_t first, int64_t rows,
                 std::byte* digest, std::byte* scratch) {
  ASHLAR_CHECK(shape.dim >= 1 && first >= 0 && rows >= 1);
  const Channels box = channels(shape.dim, scratch);
  std::fill_n(box.low, shape.dim, kInfinity);
  std::fill_n(box.high, shape.dim, -kInfinity);
  std::fill_n(box.sum, shape.dim, 0.0);
  for_rows(kv, first, first + rows, keys_reader(shape.dim, scratch),
           [&](int64_t, const float* key, const float*) {
             for (int64_t i = 0; i < shape.dim; ++i) {
               box.low[i] = std::min<double>(box.low[i], key[i]);
               box.high[i] = std::max<double>(box.high[i], key[i]);
               box.sum[i] += key[i];
             }
           });
  if (is_cuboid(shape.kind)) {
    cuboid_digest(shape, kv, first, rows, box, digest, scratch);
  } else {
    sphere_digest(shape, kv, first, rows, box, digest, scratch);
  }
}

void add_digest_weights(const DigestShape& shape, const float* q, float* weights) {
  const int64_t d = shape.dim;
  if (!is_cuboid(shape.kind)) {
    for (int64_t i = 0; i < d; ++i) weights[i] += q[i];
    weights[d] += static_cast<float>(norm_of(q, d));
    return;
  }
  for (int64_t i = 0; i < d; ++i) {
    weights[i] += q[i] > 0 ? q[i] : 0.0f;
    weights[d + i] += q[i] > 0 ? 0.0f : q[i];  // not a number: there
  }
}

void digest_dots(const KernelTable& kernels, bool half, int64_t numbers, const std::byte* rows,
                 int64_t stride, int64_t count, const float* weights, int64_t queries,
                 float* dots) {
  kernels.digest_dots(half, numbers, rows, stride, count, weights, queries, dots);
}

void digest_dots(bool half, int64_t numbers, const std::byte* rows, int64_t stride, int64_t count,
                 const float* weights, int64_t queries, float* dots) {
  digest_dots(active_kernels(), half, numbers, rows, stride, count, weights, queries, dots);
}

namespace {

void check(const CodedDigests& shape) { ASHLAR_CHECK(shape.vectors >= 1 && shape.dim >= 1); }

/// Bytes of one vector of sixteen digests.
int64_t coded_vector_bytes(const CodedDigests& shape) { return kCodedDigests * (shape.dim + 4); }

}  // namespace

int64_t coded_block_bytes(const CodedDigests& shape) {
  check(shape);
  return checked_mul(shape.vectors, coded_vector_bytes(shape), "coded digests");
}

void code_digest(const CodedDigests& shape, std::byte* block, int64_t i, const float* x) {
  check(shape);
  ASHLAR_CHECK(i >= 0 && i < kCodedDigests);
  const KvSide side{CodecKind::kQ8, true, kCodedDigests, shape.dim};
  for (int64_t v = 0; v < shape.vectors; ++v, x += shape.dim) {
    active_kernels().kv_encode(side, block + v * coded_vector_bytes(shape), i, 1, x, shape.dim);
  }
}

int64_t coded_scratch_bytes(const CodedDigests& shape) {
  check(shape);
  const int64_t bytes = 2 * round_up(shape.dim, kCodedDigests);  // of rounded numbers, or words
  return round_up(bytes + checked_mul(shape.vectors, bytes + 8, "coded digests"), 64);
}

void coded_dots(const KernelTable& kernels, const CodedDigests& shape, const std::byte* blocks,
                int64_t stride, int64_t count, const float* weights, float* dots,
                std::byte* scratch) {
  check(shape);
  kernels.coded_dots(shape, blocks, stride, count, weights, dots, scratch);
}

void coded_dots(const CodedDigests& shape, const std::byte* blocks, int64_t stride, int64_t count,
                const float* weights, float* dots, std::byte* scratch) {
  coded_dots(active_kernels(), shape, blocks, stride, count, weights, dots, scratch);
}

}  // namespace ashlar
