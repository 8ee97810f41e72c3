#include <fmt/format.h>

#include <charconv>

#include "models/spec/spec.h"

namespace ashlar {
namespace {

// Groups of `k` from the end; the first group is the short one, as in CLA's 10-layer CLA3 drawing
// ({0}, {1–3}, {4–6}, {7–9}).
std::vector<int64_t> cla(int64_t layers, int64_t k) {
  std::vector<int64_t> owners;
  const int64_t first = layers % k;
  for (int64_t i = 0; i < layers; ++i) {
    owners.push_back(i < first ? 0 : i - (i - first) % k);
  }
  return owners;
}

// {0}, {1,2}, …, {L−3,L−2}, {L−1}: the two ends keep their own K/V.
std::vector<int64_t> keep_ends(int64_t layers) {
  std::vector<int64_t> owners = {0};
  for (int64_t i = 1; i < layers - 1; ++i) owners.push_back(i - (i - 1) % 2);
  owners.push_back(layers - 1);
  return owners;
}

// 20 layers: 0–9 own, 10–18 read 9, 19 owns.
std::vector<int64_t> dense_front(int64_t layers) {
  const int64_t half = layers / 2;
  std::vector<int64_t> owners;
  for (int64_t i = 0; i < layers - 1; ++i) owners.push_back(i < half ? i : half - 1);
  owners.push_back(layers - 1);
  return owners;
}

// 20 layers: 0 and 1 own, 2–10 read 1, 11–19 own.
std::vector<int64_t> dense_back(int64_t layers) {
  const int64_t half = layers / 2;
  std::vector<int64_t> owners;
  for (int64_t i = 0; i < layers; ++i) owners.push_back(i < 2 || i > half ? i : 1);
  return owners;
}

// The lower half owns; every upper layer reads the first layer of the upper half.
std::vector<int64_t> yoco(int64_t layers) {
  const int64_t half = layers / 2;
  std::vector<int64_t> owners;
  for (int64_t i = 0; i < layers; ++i) owners.push_back(i < half ? i : half);
  return owners;
}

std::vector<int64_t> explicit_list(const Node& node, std::string_view key, int64_t layers) {
  std::vector<int64_t> owners;
  for (const Node& entry : node.as_list()) owners.push_back(entry.as_int());
  if (static_cast<int64_t>(owners.size()) != layers) {
    fail_at(node, key, fmt::format("{} entries for {} layers", owners.size(), layers));
  }
  for (int64_t i = 0; i < layers; ++i) {
    const int64_t owner = owners[static_cast<size_t>(i)];
    if (owner > i) {
      fail_at(
          node, key,
          fmt::format("layer {} reads layer {}, which runs later: forward references (LCKV) need "
                      "iterated passes and are not supported",
                      i, owner));
    }
    if (owner < 0 || owners[static_cast<size_t>(owner)] != owner) {
      fail_at(node, key, fmt::format("layer {} reads layer {}, which owns no K/V", i, owner));
    }
  }
  return owners;
}

}  // namespace

std::vector<int64_t> kv_owners(const Node& node, std::string_view key, int64_t layers) {
  if (node.is_list()) return explicit_list(node, key, layers);
  const std::string& name = node.as_string();
  const auto need = [&](int64_t least) {
    if (layers < least) {
      fail_at(node, key, fmt::format("{} needs at least {} layers, not {}", name, least, layers));
    }
  };
  if (name == "none") return cla(layers, 1);
  if (name.starts_with("cla")) {
    int64_t k = 0;
    const char* end = name.data() + name.size();
    const auto [stop, error] = std::from_chars(name.data() + 3, end, k);
    if (error == std::errc{} && stop == end && k >= 1) {
      if (k > layers) {
        fail_at(node, key, fmt::format("{}: groups of {} in {} layers", name, k, layers));
      }
      return cla(layers, k);
    }
  }
  if (name == "keep_ends") return need(4), keep_ends(layers);
  if (name == "dense_front") return need(4), dense_front(layers);
  if (name == "dense_back") return need(4), dense_back(layers);
  if (name == "yoco") return need(2), yoco(layers);
  fail_at(
      node, key,
      fmt::format("'{}' is not one of none, cla<k>, keep_ends, dense_front, dense_back, yoco or "
                  "an explicit list",
                  name));
}

}  // namespace ashlar
