#include "bench/attention_caches.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/checked.h"
#include "core/base/rng.h"

namespace ashlar {

std::vector<float> normals(int64_t n, uint64_t seed) {
  const Philox rng(seed);
  std::vector<float> x(static_cast<size_t>(n));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(rng.normal(i));
  return x;
}

BenchCache::BenchCache(const Shape& shape, int64_t slots) : shape_(shape), slots_(slots) {
  q_ = normals(shape.kv_heads * shape.group * shape.dim, 3);
}

void BenchCache::set_sequences(int64_t sequences) {
  sequences_ = sequences;
  out_.resize(static_cast<size_t>(sequences) * q_.size());
  scores_.resize(static_cast<size_t>(2 * sequences * shape_.kv_heads * (slots_ + 1)));
}

void BenchCache::add_raw(KvHeadView& kv) const {
  kv.raw_keys = kv.raw_values = q_.data();
  kv.raw_key_stride = kv.raw_value_stride = shape_.dim;
}

AttentionTask BenchCache::task(int64_t sequence, int64_t head, Collect collect) {
  AttentionTask t;
  t.q = q_.data() + head * shape_.group * shape_.dim;
  t.q_stride = t.out_stride = shape_.group * shape_.dim;
  t.rows = t.raw_visible = 1;
  t.group = shape_.group;
  t.key_dim = t.value_dim = shape_.dim;
  t.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(shape_.dim)));
  t.out = out_.data() + sequence * static_cast<int64_t>(q_.size()) + (t.q - q_.data());
  if (collect != Collect::kNothing) {
    const int64_t own = sequence * shape_.kv_heads + (collect == Collect::kByHead ? head : 0);
    uint32_t* const sums = scores_.data() + 2 * own * (slots_ + 1);
    t.scores = {sums, sums + slots_ + 1};
  }
  return t;
}

double BenchCache::step(const Clock& clock, ThreadPool& pool, Collect collect) {
  const int64_t scratch_bytes =
      round_up(attention_scratch_bytes(1, shape_.group, slots_ + 1, shape_.dim, shape_.dim,
                                       collect != Collect::kNothing, view(0, 0).all_runs()),
               64);
  if (scratch_ == nullptr || scratch_size_ < scratch_bytes) {
    scratch_ = std::make_unique<Memory>(scratch_bytes * pool.size());
    scratch_size_ = scratch_bytes;
  }
  // As the engine's jobs are: a sequence each where there are many, and heads that add to the same
  // sums together.
  const bool many = sequences_ >= 4 * pool.size();
  const int64_t heads = many || collect == Collect::kTogether ? shape_.kv_heads : 1;
  return clock.seconds([&] {
    pool.parallel_for(sequences_ * shape_.kv_heads / heads, [&](int64_t i, int thread) {
      for (int64_t j = i * heads; j < (i + 1) * heads; ++j) {
        const int64_t sequence = j / shape_.kv_heads, head = j % shape_.kv_heads;
        attention_run(view(sequence, head), task(sequence, head, collect),
                      scratch_->data() + thread * scratch_size_);
      }
    });
  });
}

RowCache::RowCache(const Shape& s, CodecKind codec, double gib, int64_t slots, int64_t page_rows,
                   const Memory& memory)
    : BenchCache(s, slots / page_rows * page_rows), page_{codec, codec, s.kv_heads, s.dim,
                                                          s.dim, false, page_rows} {
  pages_ = slots_ / page_rows;
  const int64_t bytes = kv_page_bytes(page_);
  const auto wanted = static_cast<int64_t>(gib * 0x1p30);
  set_sequences(std::max<int64_t>(1, wanted / (pages_ * bytes)));
  // Sixteen pages of numbers, again and again.
  const int64_t width = s.kv_heads * s.dim;
  const auto keys = normals(16 * page_rows * width, 1);
  const auto values = normals(16 * page_rows * width, 2);
  for (int64_t p = 0; p < sequences() * pages_; ++p) {
    std::byte* at = memory.data() + p * bytes;
    table_.push_back(at);
    if (p >= 16) {
      std::memcpy(at, table_[static_cast<size_t>(p % 16)], static_cast<size_t>(bytes));
      continue;
    }
    const int64_t first = p * page_rows * width;
    kv_page_encode(page_, at, 0, page_rows, keys.data() + first, width, values.data() + first,
                   width);
  }
}

KvHeadView RowCache::view(int64_t sequence, int64_t head) const {
  KvHeadView kv;
  kv.run_count = 1;
  kv.runs[0] = kv_page_run(page_, head);
  kv.runs[0].pages = table_.data() + sequence * pages_;
  kv.runs[0].rows = slots_;
  add_raw(kv);
  return kv;
}

void RowCache::check() {
  for (const int64_t head : {int64_t{0}, shape_.kv_heads - 1}) {
    check_decode(page_, head, view(sequences() - 1, head), task(sequences() - 1, head));
  }
}

SegmentCache::SegmentCache(const Shape& s, int64_t every, double gib, int64_t slots,
                           int64_t page_rows, const Memory& memory)
    : BenchCache(s, slots / every * every),
      zip_{s.dim, s.dim},
      every_(every),
      page_rows_(page_rows) {
  const int64_t segments = slots_ / every, salient = every * 3 / 5;
  const auto list_bytes = [&](CodecKind set, int64_t rows) {
    return ceil_div(rows, page_rows) * kv_page_bytes(zip_page(zip_, set, page_rows));
  };
  const int64_t four = list_bytes(kZipSalient, segments * salient);
  const int64_t two = list_bytes(kZipRegular, segments * (every - salient));
  each_ = round_up(four + two + segments * zip_parameter_bytes(zip_), 64);
  const auto wanted = static_cast<int64_t>(gib * 0x1p30);
  set_sequences(std::max<int64_t>(1, wanted / (each_ * s.kv_heads)));
  const int64_t heads = sequences() * s.kv_heads;
  encode(memory.data());
  for (int64_t h = 1; h < heads; ++h) {
    std::memcpy(memory.data() + h * each_, memory.data(), static_cast<size_t>(each_));
  }
  // Tables of pages first, since runs point to them.
  struct List {
    CodecKind set;
    int64_t rows, offset;
  };
  const List lists[] = {{kZipSalient, salient, 0}, {kZipRegular, every - salient, four}};
  for (int64_t h = 0; h < heads; ++h) {
    for (const List& list : lists) {
      const int64_t bytes = kv_page_bytes(zip_page(zip_, list.set, page_rows));
      for (int64_t p = 0; p < ceil_div(segments * list.rows, page_rows); ++p) {
        table_.push_back(memory.data() + h * each_ + list.offset + p * bytes);
      }
    }
  }
  runs_each_ = 2 * segments;
  const std::byte* const* pages = table_.data();
  for (int64_t h = 0; h < heads; ++h) {
    const std::byte* parameters = memory.data() + h * each_ + four + two;
    for (int64_t segment = 0; segment < segments; ++segment) {
      const std::byte* const* of_list = pages;
      for (const List& list : lists) {
        const KvPageShape shape = zip_page(zip_, list.set, page_rows);
        KvRun run = zip_run(
            shape, zip_channels(zip_, list.set, parameters + segment * zip_parameter_bytes(zip_)));
        run.pages = of_list + segment * list.rows / page_rows;
        run.first = segment * list.rows % page_rows;
        run.rows = list.rows;
        runs_.push_back(run);
        of_list += ceil_div(segments * list.rows, page_rows);
      }
    }
    for (const List& list : lists) pages += ceil_div(segments * list.rows, page_rows);
  }
}

// One head's rows: both lists, then the parameters.
void SegmentCache::encode(std::byte* at) {
  const int64_t segments = slots_ / every_, salient = every_ * 3 / 5, dim = shape_.dim;
  const KvPageShape four = zip_page(zip_, kZipSalient, page_rows_);
  const KvPageShape two = zip_page(zip_, kZipRegular, page_rows_);
  std::byte* second = at + ceil_div(segments * salient, page_rows_) * kv_page_bytes(four);
  std::byte* parameters =
      second + ceil_div(segments * (every_ - salient), page_rows_) * kv_page_bytes(two);
  for (int64_t segment = 0; segment < segments; ++segment) {
    const auto keys = normals(every_ * dim, 10 + 2 * static_cast<uint64_t>(segment));
    const auto values = normals(every_ * dim, 11 + 2 * static_cast<uint64_t>(segment));
    zip_parameters(zip_, keys.data(), values.data(), every_, salient, parameters);
    for (int64_t row = 0; row < every_; ++row) {
      const bool first = row < salient;
      const KvPageShape& shape = first ? four : two;
      const int64_t place =
          first ? segment * salient + row : segment * (every_ - salient) + row - salient;
      zip_encode(shape, (first ? at : second) + place / page_rows_ * kv_page_bytes(shape),
                 place % page_rows_, 1, keys.data() + row * dim, dim, values.data() + row * dim,
                 dim, zip_channels(zip_, shape.key_codec, parameters));
    }
    parameters += zip_parameter_bytes(zip_);
  }
}

KvHeadView SegmentCache::view(int64_t sequence, int64_t head) const {
  KvHeadView kv;
  kv.segments = runs_.data() + (sequence * shape_.kv_heads + head) * runs_each_;
  kv.segment_runs = runs_each_;
  add_raw(kv);
  return kv;
}

void SegmentCache::check() {
  for (const int64_t head : {int64_t{0}, shape_.kv_heads - 1}) {
    check_segments(zip_, view(sequences() - 1, head), task(sequences() - 1, head));
  }
}

}  // namespace ashlar
