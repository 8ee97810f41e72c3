#pragma once

// Included at the end of an ISA header whose four registers are best reduced one after another.

namespace ashlar {
namespace {

/// vsum, or vmax_all, of four registers, in the first four lanes; anything in the others.
ASHLAR_INLINE Vf vsum4(const Vf (&v)[4]) {
  alignas(64) float out[kLanes] = {vsum(v[0]), vsum(v[1]), vsum(v[2]), vsum(v[3])};
  return vload(out);
}
ASHLAR_INLINE Vf vmax4(const Vf (&v)[4]) {
  alignas(64) float out[kLanes] = {vmax_all(v[0]), vmax_all(v[1]), vmax_all(v[2]), vmax_all(v[3])};
  return vload(out);
}

}  // namespace
}  // namespace ashlar
