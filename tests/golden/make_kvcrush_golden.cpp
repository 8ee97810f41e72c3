// Calls KVCrush in OpenVINO GenAI's library; compiled and run by make_kvcrush_golden.py. The class
// is declared as that release lays it out on x86-64 Linux (its constructor writes std::mt19937 at
// 0, the configuration at 0x1388 and the block size at 0x13a0); the size of the configuration and
// the generator's state are checked before anything else is called.
//   golden LIBRARY < page important representatives anchor seed rows score…

#include <dlfcn.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace {

using Sizes = std::vector<std::size_t>;
using Scores = std::vector<double>;
using Distances = std::vector<std::pair<std::size_t, std::size_t>>;

struct Config {
  std::size_t budget;
  int anchor;  // random, zeros, ones, mean, alternating
  std::size_t seed;
};

struct Algorithm {
  std::mt19937 rng;
  Config config;
  std::size_t block;
};
static_assert(offsetof(Algorithm, config) == 0x1388 && offsetof(Algorithm, block) == 0x13a0);

template <typename Function>
Function* find(void* library, const char* name) {
  void* symbol = dlsym(library, name);
  if (symbol == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    std::exit(1);
  }
  return reinterpret_cast<Function*>(symbol);
}

std::string list(const Sizes& values) {
  std::string out = "[";
  for (const std::size_t value : values) out += (out.size() > 1 ? "," : "") + std::to_string(value);
  return out + "]";
}

// One string of digits per block.
std::string digits(const Sizes& bits, std::size_t block) {
  std::string out;
  for (std::size_t i = 0; i < bits.size(); ++i) {
    if (i % block == 0) out += i == 0 ? "\"" : "\",\"";
    out += static_cast<char>('0' + bits[i]);
  }
  return out + "\"";
}

}  // namespace

#define CRUSH(name) "_ZN2ov5genai16KVCrushAlgorithm" name

int main(int argc, char** argv) {
  void* library = argc == 2 ? dlopen(argv[1], RTLD_NOW) : nullptr;
  if (library == nullptr) {
    std::fprintf(stderr, "%s\n", argc == 2 ? dlerror() : "usage: golden LIBRARY");
    return 1;
  }
  std::size_t block, important, rows;
  Config config{};
  std::cin >> block >> important >> config.budget >> config.anchor >> config.seed >> rows;
  Scores scores(rows), sums(rows / block);
  for (std::size_t i = 0; i < rows; ++i) {
    std::cin >> scores[i];
    sums[i / block] += scores[i];
  }
  if (!std::cin) return 1;

  auto* construct = find<void(Algorithm*, const Config&, std::size_t)>(
      library, CRUSH("C1ERKNS0_13KVCrushConfigEm"));
  Algorithm algorithm{std::mt19937(1), {}, 0};
  construct(&algorithm, config, block);
  if (algorithm.rng != std::mt19937(static_cast<std::uint32_t>(config.seed)) ||
      algorithm.block != block || algorithm.config.budget != config.budget ||
      algorithm.config.anchor != config.anchor) {
    std::fprintf(stderr, "the library's KVCrushAlgorithm is not laid out as declared here\n");
    return 1;
  }
  // A const member that reads nothing of its object: a null one would crash if that changed.
  auto* evict = find<Sizes(const void*, const Scores&, std::size_t)>(
      library,
      "_ZNK2ov5genai22CacheEvictionAlgorithm30get_indices_of_blocks_to_evictERKSt6vectorIdSaIdEEm");
  auto* indicators = find<Sizes(Algorithm*, std::size_t, Sizes&, const Scores&)>(
      library, CRUSH("25create_indicators_kvcrushEmRSt6vectorImSaImEERKS2_IdSaIdEE"));
  auto* anchor = find<Sizes(Algorithm*, std::size_t, Sizes&)>(
      library, CRUSH("27create_anchor_point_kvcrushEmRSt6vectorImSaImEE"));
  auto* measure = find<Distances(Algorithm*, std::size_t, Sizes&, Sizes&)>(
      library, CRUSH("34calculate_hamming_distance_kvcrushEmRSt6vectorImSaImEES5_"));
  auto* retain = find<Sizes(Algorithm*, std::size_t, Sizes&, const Scores&)>(
      library,
      CRUSH("45get_indices_of_blocks_to_retain_using_kvcrushEmRSt6vectorImSaImEERKS2_IdSaIdEE"));

  Sizes evicted = evict(nullptr, sums, sums.size() - important);
  Sizes bits = indicators(&algorithm, rows, evicted, scores);
  Sizes point = anchor(&algorithm, rows, bits);
  Sizes distances;
  for (const auto& [distance, index] : measure(&algorithm, rows, bits, point)) {
    if (index != distances.size()) return 1;
    distances.push_back(distance);
  }
  // The whole of it draws its anchor again: from the start, so that it is the one above.
  construct(&algorithm, config, block);
  const Sizes retained = retain(&algorithm, rows, evicted, scores);
  std::printf("{\"evicted\":%s,\"bits\":[%s],\"point\":%s,\"distances\":%s,\"retained\":%s}\n",
              list(evicted).c_str(), digits(bits, block).c_str(), digits(point, block).c_str(),
              list(distances).c_str(), list(retained).c_str());
}
