#pragma once

// Included after one ISA header of this folder.

namespace ashlar {
namespace {

/// e^x. Cephes' expf polynomial after x = n·ln2 + r, |r| ≤ ln2/2, with ln2 split so that n·ln2_hi
/// is exact. Error ≤ 2 ulp where the result is normal; subnormal results are rounded once more;
/// overflow gives infinity, −infinity gives 0, NaN stays NaN. e^0 = 1 exactly.
ASHLAR_INLINE Vf vexp(Vf x) {
  x = vmax(vset(-105.0f), x);
  x = vmin(vset(89.0f), x);
  const Vf magic = vset(0x1.8p23f);
  const Vf t = vfma(x, vset(1.44269504088896341f), magic);
  const Vf n = vsub(t, magic);
  Vf r = vfma(n, vset(-0.693359375f), x);
  r = vfma(n, vset(2.12194440e-4f), r);
  Vf p = vset(1.9875691500e-4f);
  p = vfma(p, r, vset(1.3981999507e-3f));
  p = vfma(p, r, vset(8.3334519073e-3f));
  p = vfma(p, r, vset(4.1665795894e-2f));
  p = vfma(p, r, vset(1.6666665459e-1f));
  p = vfma(p, r, vset(5.0000001201e-1f));
  p = vadd(vfma(p, vmul(r, r), r), vset(1.0f));
  // 2^n in two factors, so that neither leaves the range of normal floats.
  const Vi whole = isub(ibits(t), iset(0x4b400000));
  const Vi half = isar<1>(whole);
  const Vi one = iset(127);
  const Vf a = vbits(ishl<23>(iadd(half, one)));
  const Vf b = vbits(ishl<23>(iadd(isub(whole, half), one)));
  return vmul(vmul(p, a), b);
}

}  // namespace
}  // namespace ashlar
