#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "kernels/linear.h"
#include "kernels/linear_job.h"

// The ISA-neutral packed form of LinearLayout (linear_job.h). Missing outputs and codes are zero.
namespace ashlar {
namespace {

template <typename Element>
void pack_floats(const LinearLayout& layout, const std::byte* data, int64_t first, int64_t outputs,
                 std::byte* panel) {
  Element* out = reinterpret_cast<Element*>(panel);
  for (int64_t o = 0; o < outputs; ++o) {
    const std::byte* row = data + (first + o) * layout.shape.in * sizeof(Element);
    for (int64_t k = 0; k < layout.shape.in; ++k) {
      std::memcpy(&out[k * kPanel + o], row + k * sizeof(Element), sizeof(Element));
    }
  }
}

void pack_q8(const LinearLayout& layout, const std::byte* row, int64_t o, std::byte* codes) {
  for (int64_t g = 0; g < layout.groups; ++g) {
    const int64_t start = g * layout.group;
    const int64_t n = std::min(layout.group, layout.shape.in - start);
    std::byte* out = codes + g * layout.group_bytes + 4 * o;
    for (int64_t k = 0; k < n; ++k) out[k / 4 * 4 * kPanel + k % 4] = row[start + k];
  }
}

void pack_q4(const LinearLayout& layout, const std::byte* row, int64_t o, std::byte* codes) {
  for (int64_t g = 0; g < layout.groups; ++g) {
    const int64_t start = g * layout.group;
    const int64_t n = std::min(layout.group, layout.shape.in - start);
    std::byte* out = codes + g * layout.group_bytes + 4 * o;
    for (int64_t j = 0; j < n; ++j) {
      const int64_t k = start + j;
      const unsigned byte = static_cast<unsigned>(row[k / 2]);
      const unsigned code = (k % 2 == 0 ? byte : byte >> 4) & 15u;
      // Byte j%4 of the lane; the second four of each eight go to the high nibbles.
      out[j / 8 * 4 * kPanel + j % 4] |= static_cast<std::byte>(code << (j % 8 / 4 * 4));
    }
  }
}

/// [outputs, groups] parameters to [groups, 16].
void pack_parameters(const LinearLayout& layout, const std::byte* source, int64_t first,
                     int64_t outputs, std::byte* out) {
  const int64_t width = parameter_bytes(layout.shape);
  for (int64_t o = 0; o < outputs; ++o) {
    const std::byte* row = source + (first + o) * layout.groups * width;
    for (int64_t g = 0; g < layout.groups; ++g) {
      std::memcpy(out + (g * kPanel + o) * width, row + g * width, static_cast<size_t>(width));
    }
  }
}

void pack_quantized(const LinearLayout& layout, const LinearSource& source, int64_t first,
                    int64_t outputs, std::byte* panel) {
  const bool nibbles = layout.shape.weight == WeightKind::kQ4;
  const int64_t row_bytes = nibbles ? (layout.shape.in + 1) / 2 : layout.shape.in;
  pack_parameters(layout, source.scale, first, outputs, panel);
  if (layout.shape.has_min) {
    pack_parameters(layout, source.min, first, outputs, panel + layout.min_offset);
  }
  for (int64_t o = 0; o < outputs; ++o) {
    const std::byte* row = source.data + (first + o) * row_bytes;
    (nibbles ? pack_q4 : pack_q8)(layout, row, o, panel + layout.code_offset);
  }
}

}  // namespace

void linear_pack(const LinearShape& shape, const LinearSource& source, std::byte* packed) {
  const LinearLayout layout = linear_layout(shape);
  const bool quantized = shape.weight == WeightKind::kQ8 || shape.weight == WeightKind::kQ4;
  ASHLAR_CHECK(source.data != nullptr);
  ASHLAR_CHECK((source.scale != nullptr) == quantized);
  ASHLAR_CHECK((source.min != nullptr) == shape.has_min);
  for (int64_t p = 0; p < layout.panels; ++p) {
    const int64_t first = p * kPanel;
    const int64_t outputs = std::min(kPanel, shape.out - first);
    std::byte* panel = packed + p * layout.panel_bytes;
    std::memset(panel, 0, static_cast<size_t>(layout.panel_bytes));
    if (quantized) {
      pack_quantized(layout, source, first, outputs, panel);
    } else if (shape.weight == WeightKind::kF32) {
      pack_floats<uint32_t>(layout, source.data, first, outputs, panel);
    } else {
      pack_floats<uint16_t>(layout, source.data, first, outputs, panel);
    }
  }
}

}  // namespace ashlar
