#include "kernels/dispatch.h"

#include "core/base/error.h"
#include "kernels/isa/tables.h"

namespace ashlar {

const KernelTable& kernels_for(Isa isa) {
  ASHLAR_CHECK(isa_supported(isa));
  switch (isa) {
    case Isa::kGeneric:
      return kGenericKernels;
    case Isa::kAvx2:
      return kAvx2Kernels;
    case Isa::kAvx512:
      return kAvx512Kernels;
    case Isa::kAvx512Vnni:
      return kAvx512VnniKernels;
  }
  fail(ErrorCode::kInternal, "unknown instruction set {}", static_cast<int>(isa));
}

const KernelTable& active_kernels() {
  static const KernelTable& table = kernels_for(active_isa());
  return table;
}

}  // namespace ashlar
