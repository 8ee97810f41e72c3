#include "attention/isa/row_body.h"
#include "attention/isa/row_table.h"
#include "attention/isa/short_attention_body.h"

namespace ashlar::rows {
namespace {

template <typename T>
constexpr RowTable<T> make_table() {
  return {rms_norm_rows<T>,        rms_norm_backward_rows<T>,
          rotate_rows<T>,          swiglu_span<T>,
          swiglu_backward_span<T>, cross_entropy_rows<T>,
          causal_softmax_rows<T>,  causal_softmax_backward_rows<T>,
          short_attention_rows<T>, short_attention_backward_rows<T>};
}

}  // namespace

RowTables avx2_tables() { return {make_table<float>(), make_table<double>(), make_table<Bf16>()}; }

}  // namespace ashlar::rows
