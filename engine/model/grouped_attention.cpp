#include "engine/model/attention_step.h"

// MHA, GQA and MQA over the rows of the layer's own group or of one it shares.

namespace ashlar {

float* grouped_attention(const LayerStep& step, const float* source_RD, const float* input_RD) {
  const AttentionSpec& a = step.a();
  const LayerWeights& w = step.weights;
  const int64_t width = a.heads * a.head_dim, kv_width = a.kv_heads * a.head_dim;
  float* query_RHE = fit(step.work.query, step.rows * width);
  apply_linear(w.query, input_RD, step.rows, query_RHE, step.work, step.pool);
  change_heads(step, query_RHE, {a.heads, a.head_dim, 0, w.query_norm});
  if (step.owns) {
    const float* kv_RD = kv_input(step, source_RD, input_RD);
    float* key_RKE = fit(step.work.key, step.rows * kv_width);
    float* value_RKE = fit(step.work.value, step.rows * kv_width);
    apply_linear(w.key, kv_RD, step.rows, key_RKE, step.work, step.pool);
    apply_linear(w.value, kv_RD, step.rows, value_RKE, step.work, step.pool);
    change_heads(step, key_RKE, {a.kv_heads, a.head_dim, 0, w.key_norm});
    append_rows(step, key_RKE, value_RKE);
  }
  float* out_RHE = fit(step.work.attention, step.rows * width);
  attend(step, {step.group, a.heads, query_RHE, out_RHE, attention_scale(a.head_dim), w.sinks,
                step.bidirectional});
  return out_RHE;
}

}  // namespace ashlar
