#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"

// What cache policies ask of stored keys and values (KeyDiff, ArkVale, Quest): features of the rows
// that attention sees, decoded, over any KvHeadView. Sums are taken in double, in eight chains over
// ascending elements and then their tree, rows in ascending slot order; so the bits depend neither
// on how the rows lie in pages nor on the instruction set. Only digest_dots works in fp32.

namespace ashlar {

/// Bytes of scratch, 64-byte aligned, for the functions that ask for it.
int64_t kv_features_scratch_bytes(int64_t key_dim, int64_t value_dim);

/// ‖k_s‖₂ and ‖v_s‖₂ of the encoded rows and the first `raw` raw rows. Either output may be null.
void kv_norms(const KvHeadView& kv, int64_t raw, int64_t key_dim, int64_t value_dim,
              float* key_norms, float* value_norms, std::byte* scratch);

/// k_s·direction, or its cosine (0 where a norm is 0), for the same slots.
void kv_key_dots(const KvHeadView& kv, int64_t raw, int64_t key_dim, const float* direction,
                 float* dots, std::byte* scratch);
void kv_key_cosines(const KvHeadView& kv, int64_t raw, int64_t key_dim, const float* direction,
                    float* cosines, std::byte* scratch);

/// mean[i] = 1/n · Σ_s k_{s,i} / ‖k_s‖, KeyDiff's anchor (arXiv 2504.15364). A zero key adds
/// nothing but counts. At least one slot.
void kv_mean_direction(const KvHeadView& kv, int64_t raw, int64_t key_dim, float* mean,
                       std::byte* scratch);

/// What a digest remembers of some keys k (ArkVale, NeurIPS 2024, eq. 1–4), to estimate max_k q·k:
/// a cuboid c ± ρ per channel, or a sphere of radius ρ about c. ρ is the largest distance |c − k|,
/// the middle of smallest and largest, or the mean. Only the largest bounds max_k q·k.
enum class DigestKind : uint8_t {
  kCuboidMax,
  kCuboidCentre,
  kCuboidMean,
  kSphereMax,
  kSphereCentre,
  kSphereMean
};
/// c of a sphere: the middle of the keys' cuboid (ArkVale), or their mean, whose radius does not
/// change under a rotation. Cuboids have the former.
enum class DigestAbout : uint8_t { kCuboid, kCentroid };

struct DigestShape {
  DigestKind kind = DigestKind::kCuboidMax;
  DigestAbout about = DigestAbout::kCuboid;
  bool half = false;  ///< fp16 instead of fp32; bounding ones are rounded outwards in both
  int64_t dim = 0;
};

/// Bytes of one digest: upper then lower corner, 2·dim numbers, or c then ρ, dim + 1.
int64_t digest_bytes(const DigestShape& shape);

/// The digest of slots [first, first + rows) of a view, rows ≥ 1.
void digest_keys(const DigestShape& shape, const KvHeadView& kv, int64_t first, int64_t rows,
                 std::byte* digest, std::byte* scratch);

/// Numbers of one digest.
int64_t digest_numbers(const DigestShape& shape);

/// Estimates are linear in the numbers of a digest: Σ_j max(q_j·upper_j, q_j·lower_j), which is
/// Σ_j q_j⁺·upper_j + q_j⁻·lower_j, and q·c + ρ·‖q‖, both without 1/√d. Adds the weights of the
/// numbers for query q to `weights` [digest_numbers()]: the estimates of several queries add up to
/// one product.
void add_digest_weights(const DigestShape& shape, const float* q, float* weights);

/// dots[i·queries + h] = Σ_j weights[h, j]·x[i, j] of `count` rows of `numbers` numbers (one digest
/// or several side by side), `stride` bytes apart, in fp32. With the weights of one query a digest
/// of a `max` kind gives at least max_k q·k but for the rounding of these sums. The bits depend on
/// row and weights alone.
void digest_dots(bool half, int64_t numbers, const std::byte* rows, int64_t stride, int64_t count,
                 const float* weights, int64_t queries, float* dots);

/// Digests of a byte a number, in blocks of sixteen, so that a register holds one number of each:
/// `vectors` vectors of `dim` numbers a digest (of cuboids the two corners of each KV head), each
/// coded by q8 with its own min and step. Vector v of a block lies as the keys of a page of sixteen
/// rows do, whose row is the digest (kernels/kv_page.h). A number is off by half a step at most,
/// and what fp16 takes from min and step: for digests that do not bound.
struct CodedDigests {
  int64_t vectors = 0;
  int64_t dim = 0;
};
inline constexpr int64_t kCodedDigests = 16;

/// Bytes of one block: vectors · 16 · (dim + 4).
int64_t coded_block_bytes(const CodedDigests& shape);
/// Codes digest i of a block, 0 ≤ i < 16: x [vectors, dim].
void code_digest(const CodedDigests& shape, std::byte* block, int64_t i, const float* x);
/// Bytes of scratch for coded_dots, 64-byte aligned.
int64_t coded_scratch_bytes(const CodedDigests& shape);
/// dots[i] = Σ_v Σ_j weights[v, j]·x of the first `count` digests of blocks `stride` bytes apart.
/// weights [vectors, dim] are rounded to 16 bits of each vector's largest and multiplied with codes
/// in whole numbers, as queries are (kernels/simd/attention_block_impl.h). The bits depend on
/// digest and weights alone.
void coded_dots(const CodedDigests& shape, const std::byte* blocks, int64_t stride, int64_t count,
                const float* weights, float* dots, std::byte* scratch);

}  // namespace ashlar
