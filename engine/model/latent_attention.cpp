#include <algorithm>

#include "engine/model/attention_step.h"
#include "kernels/elementwise.h"

// Multi-head latent attention (arXiv 2405.04434 §2.1), read absorbed: with k_j = W_uk·c_j and
// v_j = W_uv·c_j per head, q·k_j = (W_ukᵀ·q)·c_j and Σ p_j·v_j = W_uv·(Σ p_j·c_j), so attention
// runs over the cached rows [c_j; RoPE(shared key)] as one KV head that all query heads share.

namespace ashlar {
namespace {

// One map per head: x [R, H, x_width] (its first inputs) to y [R, H, y_width] (its first outputs).
// Heads are the unit of work, so each map runs in one thread.
void apply_per_head(const LayerStep& step, const std::vector<Linear>& heads, const float* x,
                    int64_t x_width, float* y, int64_t y_width) {
  const auto count = static_cast<int64_t>(heads.size());
  const int64_t bytes = linear_scratch_bytes(heads[0].shape, step.rows);
  auto& scratch = step.work.head_scratch;
  scratch.resize(static_cast<size_t>(step.pool.size()));
  for (auto& buffer : scratch) fit_aligned(buffer, bytes);
  step.pool.parallel_for(count, [&](int64_t h, int thread) {
    const Linear& linear = heads[static_cast<size_t>(h)];
    linear_run(linear.shape, linear.packed, nullptr, x + h * x_width, count * x_width, step.rows,
               y + h * y_width, count * y_width,
               fit_aligned(scratch[static_cast<size_t>(thread)], bytes), step.work.serial);
  });
}

// c = norm(W_c·h) and the shared key's RoPE, one cached row [C + P] each.
void project_latent(const LayerStep& step, const float* input_RD) {
  const AttentionSpec& a = step.a();
  const LayerWeights& w = step.weights;
  const int64_t width = a.latent_dim + a.rope.dim;
  float* row_RCP = fit(step.work.key, step.rows * width);
  apply_linear(w.latent, input_RD, step.rows, row_RCP, step.work, step.pool);
  step.pool.parallel_for(step.rows, [&](int64_t r, int) {
    float* row = row_RCP + r * width;
    rms_norm(row, w.latent_norm, step.spec.norm.eps, a.latent_dim, row);
  });
  change_heads(step, row_RCP, {1, width, a.latent_dim, nullptr});
  append_rows(step, row_RCP, nullptr);
}

// The queries of all heads against cached rows: [R, H, C + P].
const float* absorbed_query(const LayerStep& step, const float* input_RD) {
  const AttentionSpec& a = step.a();
  const LayerWeights& w = step.weights;
  const int64_t turned = a.rope.dim, dim = a.query_dim(), width = a.latent_dim + turned;
  const float* input = input_RD;
  if (a.query_latent_dim > 0) {
    const int64_t rank = a.query_latent_dim;
    float* low = fit(step.work.low_rank, step.rows * rank);
    apply_linear(w.query_down, input_RD, step.rows, low, step.work, step.pool);
    step.pool.parallel_for(step.rows, [&](int64_t r, int) {
      rms_norm(low + r * rank, w.query_down_norm, step.spec.norm.eps, rank, low + r * rank);
    });
    input = low;
  }
  float* query_RHE = fit(step.work.query, step.rows * a.heads * dim);
  apply_linear(w.query, input, step.rows, query_RHE, step.work, step.pool);
  change_heads(step, query_RHE, {a.heads, dim, a.head_dim, nullptr});
  float* absorbed_RHCP = fit(step.work.absorbed, step.rows * a.heads * width);
  apply_per_head(step, step.owner.key_up, query_RHE, dim, absorbed_RHCP, width);
  for (int64_t i = 0; i < step.rows * a.heads; ++i) {
    std::copy_n(query_RHE + i * dim + a.head_dim, turned, absorbed_RHCP + i * width + a.latent_dim);
  }
  return absorbed_RHCP;
}

}  // namespace

float* latent_attention(const LayerStep& step, const float* source_RD, const float* input_RD) {
  const AttentionSpec& a = step.a();
  const float* query_RHCP = absorbed_query(step, input_RD);
  if (step.owns) project_latent(step, kv_input(step, source_RD, input_RD));
  float* mixed_RHC = fit(step.work.mixed, step.rows * a.heads * a.latent_dim);
  attend(step, {step.group, a.heads, query_RHCP, mixed_RHC, attention_scale(a.query_dim()),
                step.weights.sinks, step.bidirectional});
  const int64_t value = a.latent_value_dim;
  float* out = fit(step.work.attention, step.rows * a.heads * value);
  apply_per_head(step, step.owner.value_up, mixed_RHC, a.latent_dim, out, value);
  return out;
}

}  // namespace ashlar
