#include "kernels/simd/avx512_dot.h"
// The lanes above are what everything below is written in.
#include "kernels/isa/tables.h"
#include "kernels/simd/table_impl.h"

namespace ashlar {

constinit const KernelTable kAvx512Kernels = make_table(Isa::kAvx512);

}  // namespace ashlar
