#include "core/base/cpu.h"

#include <cpuid.h>
#include <sched.h>

#include <cstdlib>
#include <cstring>

#include "core/base/error.h"

namespace ashlar {
namespace {

CpuFeatures detect() {
  CpuFeatures features;
  __builtin_cpu_init();
  features.avx2_fma_f16c = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                           __builtin_cpu_supports("f16c");
  features.avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  features.avx512_vnni = features.avx512 && __builtin_cpu_supports("avx512vnni");
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (features.avx512 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
    features.avx512_bf16 = (a >> 5) & 1u;
  }
  if (features.avx512 && __get_cpuid_count(7, 0, &a, &b, &c, &d)) {
    features.amx_bf16 = (d >> 22) & 1u;
  }
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) features.cores = CPU_COUNT(&set);
  char brand[49] = {};
  for (unsigned leaf = 0; leaf < 3; ++leaf) {
    unsigned words[4] = {};
    if (!__get_cpuid(0x80000002u + leaf, &words[0], &words[1], &words[2], &words[3])) break;
    std::memcpy(brand + 16 * leaf, words, sizeof(words));
  }
  features.model = brand;
  while (!features.model.empty() && features.model.back() == ' ') features.model.pop_back();
  return features;
}

constexpr std::string_view kNames[] = {"generic", "avx2", "avx512", "avx512vnni"};

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

std::string_view isa_name(Isa isa) { return kNames[static_cast<size_t>(isa)]; }

Isa isa_from_name(std::string_view name) {
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (kNames[i] == name) return static_cast<Isa>(i);
  }
  fail(ErrorCode::kRequest,
       "ASHLAR_ISA: unknown instruction set '{}' (known: generic, avx2, avx512, avx512vnni)", name);
}

bool isa_supported(Isa isa) {
  const CpuFeatures& features = cpu_features();
  switch (isa) {
    case Isa::kGeneric:
      return true;
    case Isa::kAvx2:
      return features.avx2_fma_f16c;
    case Isa::kAvx512:
      return features.avx512 && features.avx2_fma_f16c;
    case Isa::kAvx512Vnni:
      return features.avx512_vnni && features.avx2_fma_f16c;
  }
  return false;
}

Isa active_isa() {
  static const Isa isa = [] {
    if (const char* forced = std::getenv("ASHLAR_ISA"); forced != nullptr && *forced != '\0') {
      const Isa wanted = isa_from_name(forced);
      require(isa_supported(wanted), ErrorCode::kRequest,
              "ASHLAR_ISA={}: this processor cannot run it", forced);
      return wanted;
    }
    for (Isa candidate : {Isa::kAvx512Vnni, Isa::kAvx512, Isa::kAvx2}) {
      if (isa_supported(candidate)) return candidate;
    }
    return Isa::kGeneric;
  }();
  return isa;
}

}  // namespace ashlar
