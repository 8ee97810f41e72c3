#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kv_page.h"

// The codec of ZipCache (arXiv 2405.14256, §3.1 and §4.1) for one segment of one KV head: rows of
// the text that are encoded together, once. The rows of a segment form two sets: salient ones get
// 4 bits a number, the others 2.
//   keys, channel by channel, min and max over the rows of a set:
//     step_i = (max_i − min_i) / (2^b − 1), k̂_ti = min_i + step_i·code_ti;
//   values, "channel-separable tokenwise": with c_i = √(max_t |v_ti|) over all rows of the segment,
//     before they are told apart, y_ti = v_ti / c_i; min and step of each row over its channels,
//     v̂_ti = (min_t + step_t·code_ti)·c_i.
// So a segment has five numbers per channel (four of keys, one of values) and a row two.
//
// All parameters are fp16, and codes are taken by the rounded ones. A step that fp16 rounds to zero
// leaves one level, the middle of the range: constant channels of keys and rows of zeros are exact
// up to fp16. A channel whose values are all zero (up to 2^-50: fp16 rounds √ to zero) has c_i = 0,
// takes no part in its rows' ranges, and decodes to zero. Deviations from the authors' code, which
// divides 0 by 0 in both cases, and shares a row's min and step among all heads: sets differ from
// head to head, so one row of theirs mixes tokens; here they are the head's own.
// Numbers beyond ±65504, infinities and NaN encode without undefined behaviour; keys of their
// channel, or values of their row or channel, in the segment may then decode to infinity or NaN.

namespace ashlar {

struct ZipShape {
  int64_t key_dim = 0;
  int64_t value_dim = 0;

  bool operator==(const ZipShape&) const = default;
};

/// Codecs of the two sets.
inline constexpr CodecKind kZipSalient = CodecKind::kQ4;
inline constexpr CodecKind kZipRegular = CodecKind::kQ2;

/// Pages of rows of one set: one head, `page_rows` rows, of any segments.
KvPageShape zip_page(const ZipShape& shape, CodecKind set, int64_t page_rows);

/// Bytes of a segment's parameters: 8·key_dim + 2·value_dim.
int64_t zip_parameter_bytes(const ZipShape& shape);

/// Where the parameters of one set's rows lie, fp16: of keys min [key_dim], step [key_dim]; of
/// values c [value_dim], which both sets share.
struct ZipChannels {
  const std::byte* key = nullptr;
  const std::byte* value = nullptr;
};
ZipChannels zip_channels(const ZipShape& shape, CodecKind set, const std::byte* parameters);

/// Writes the parameters of a segment of rows keys [rows, key_dim] and values [rows, value_dim], of
/// which the first `salient` are salient. An empty set has zeros.
void zip_parameters(const ZipShape& shape, const float* keys, const float* values, int64_t rows,
                    int64_t salient, std::byte* parameters);

/// Encodes rows of one set and segment into rows [first, first + rows) of a page of zip_page().
void zip_encode(const KvPageShape& page_shape, std::byte* page, int64_t first, int64_t rows,
                const float* keys, int64_t key_stride, const float* values, int64_t value_stride,
                const ZipChannels& channels);

/// The inverse: what attention sees.
void zip_decode(const KvPageShape& page_shape, const std::byte* page, int64_t first, int64_t rows,
                float* keys, int64_t key_stride, float* values, int64_t value_stride,
                const ZipChannels& channels);

/// Attention's view of a page's rows with these parameters: kv_page_run and where they lie.
KvRun zip_run(const KvPageShape& page_shape, const ZipChannels& channels);

}  // namespace ashlar
