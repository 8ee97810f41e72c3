#pragma once

// Included after one ISA header of this folder.

namespace ashlar {
namespace {

/// e^x for x ≤ 89. Cephes' expf polynomial after x = n·ln2 + r, |r| ≤ ln2/2, with ln2 split so that
/// n·ln2_hi is exact. Error ≤ 2 ulp where the result is normal; subnormal results are rounded once
/// more; −infinity gives 0, NaN stays NaN. e^0 = 1 exactly.
ASHLAR_INLINE Vf vexp_below(Vf x) {
  x = vmax(vset(-105.0f), x);
  const Vf magic = vset(0x1.8p23f);
  const Vf n = vsub(vfma(x, vset(1.44269504088896341f), magic), magic);
  Vf r = vfma(n, vset(-0.693359375f), x);
  r = vfma(n, vset(2.12194440e-4f), r);
  Vf p = vset(1.9875691500e-4f);
  p = vfma(p, r, vset(1.3981999507e-3f));
  p = vfma(p, r, vset(8.3334519073e-3f));
  p = vfma(p, r, vset(4.1665795894e-2f));
  p = vfma(p, r, vset(1.6666665459e-1f));
  p = vfma(p, r, vset(5.0000001201e-1f));
  p = vadd(vfma(p, vmul(r, r), r), vset(1.0f));
  return vscale(p, n);
}
/// The same for any x; overflow gives infinity.
ASHLAR_INLINE Vf vexp(Vf x) { return vexp_below(vmin(vset(89.0f), x)); }

/// erf(x) within 2 ulp (3 without FMA), odd; ±1 beyond |x| = 3.95, NaN stays NaN. Both parts are
/// minimax fits of relative error below 2e-9: erf(x) = x + x·P(x²) for |x| < 1, and
/// 1 − e^(−Q(|x|)) beyond, with Q ≈ −log erfc on [1, 3.95].
ASHLAR_INLINE Vf verf(Vf x) {
  const Vf s = vmul(x, x);
  Vf p = vset(7.853847112e-5f);
  p = vfma(p, s, vset(-8.010189311e-4f));
  p = vfma(p, s, vset(5.188327195e-3f));
  p = vfma(p, s, vset(-2.685381168e-2f));
  p = vfma(p, s, vset(1.128358514e-1f));
  p = vfma(p, s, vset(-3.761262582e-1f));
  p = vfma(p, s, vset(1.283791657e-1f));
  const Vf inner = vfma(x, p, x);
  const Vf t = vmin(vset(3.95f), vabs(x));
  Vf q = vset(2.169786747e-5f);
  q = vfma(q, t, vset(-4.414757059e-4f));
  q = vfma(q, t, vset(4.205300178e-3f));
  q = vfma(q, t, vset(-2.521038205e-2f));
  q = vfma(q, t, vset(1.084221677e-1f));
  q = vfma(q, t, vset(6.332163325e-1f));
  q = vfma(q, t, vset(1.129580345f));
  q = vfma(q, t, vset(-1.884749571e-4f));
  const Vf tail = vsub(vset(1.0f), vexp(vsub(vzero(), q)));
  // Takes `tail` where |x| ≥ 1, by the sign bit of |x| − 1, and gives it the sign of x. Of
  // a NaN either is NaN.
  const Vi small = isar<31>(ibits(vsub(vabs(x), vset(1.0f))));
  const Vi signed_tail = ixor(ibits(tail), iand(ibits(x), iset(INT32_MIN)));
  return vbits(ixor(signed_tail, iand(small, ixor(signed_tail, ibits(inner)))));
}

}  // namespace
}  // namespace ashlar
