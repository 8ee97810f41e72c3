#include "kernels/simd/generic.h"
// The lanes above are what everything below is written in.
#include "kernels/isa/tables.h"
#include "kernels/simd/table_impl.h"

namespace ashlar {

constinit const KernelTable kGenericKernels = make_table(Isa::kGeneric);

}  // namespace ashlar
