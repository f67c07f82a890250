// Group laws and charts with their reverse-mode derivatives, for every T of numeric.h. Twin of pgconv/groups: Planar,
// Spatial and SemidirectProduct are its Planar, SO3 and SemidirectProduct, and the formulas are the same, so gradients
// agree for every component, mirror and quaternion components included (nothing is normalised).
//
// A prepared element ("fields") is the element followed by the matrix M of its inverse linear action h^-1 (row-major,
// only where there is a translation to act on). Derivatives of fields are turned into those of elements once per
// element. Functions named *_backward add to the gradients of their inputs.
#pragma once

#include "activations.h"

namespace pgconv {
namespace PGCONV_ISA {

// a - 2 pi ceil((a - pi - 1e-5) / 2 pi): see groups/numerics.py. Derivative 1.
template <class T>
PGCONV_INLINE T wrap(T a) {
  using S = Scalar<T>;
  return a - S(2 * kPi) * ceiling((a - S(kPi + 1e-5)) * S(0.5 / kPi));
}

template <class T>
PGCONV_INLINE void cross(const T* a, const T* b, T* out) {
  out[0] = a[1] * b[2] - a[2] * b[1];
  out[1] = a[2] * b[0] - a[0] * b[2];
  out[2] = a[0] * b[1] - a[1] * b[0];
}

template <class T>
PGCONV_INLINE T dot3(const T* a, const T* b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

// c = z / (e^z - 1) for z = re + i im, |im| < 2 pi, and its complex derivative dc = c (1 - c) / z - c.
template <bool Real, class T>
PGCONV_INLINE void inverse_mean_exponential(T re, T im, T* c, T* dc) {
  using S = Scalar<T>;
  // Bernoulli series 1 - z/2 + z^2 sum_n b[n] z^2n; at |z|^2 = 0.5 the first neglected term is below 1e-17.
  constexpr S b[9] = {S(1.0 / 12),
                      S(-1.0 / 720),
                      S(1.0 / 30240),
                      S(-1.0 / 1209600),
                      S(1.0 / 47900160),
                      S(-5.284190138687493e-10),
                      S(1.3382536530684679e-11),
                      S(-3.3896802963225829e-13),
                      S(8.5860620562778446e-15)};
  T square = re * re + im * im;
  auto small = square < S(0.5);
  T w[2] = {re * re - im * im, S(2) * re * im};
  T p[2] = {broadcast<T>(b[8]), T{}}, q[2] = {broadcast<T>(S(9) * b[8]), T{}};  // q = d(w p) / dw
  PGCONV_UNROLL
  for (int n = 7; n >= 0; --n) {
    T p0 = p[0] * w[0] - p[1] * w[1] + b[n], q0 = q[0] * w[0] - q[1] * w[1] + S(n + 1) * b[n];
    p[1] = p[0] * w[1] + p[1] * w[0];
    q[1] = q[0] * w[1] + q[1] * w[0];
    p[0] = p0;
    q[0] = q0;
  }
  T series[2] = {S(1) - S(0.5) * re + (w[0] * p[0] - w[1] * p[1]), S(-0.5) * im + (w[0] * p[1] + w[1] * p[0])};
  T slope[2] = {S(2) * (re * q[0] - im * q[1]) - S(0.5), S(2) * (re * q[1] + im * q[0])};

  T sine, cosine, half, unused;
  sincos_half_turns(im * S(1 / kPi), sine, cosine);
  sincos_half_turns(im * S(0.5 / kPi), half, unused);
  T m = Real ? exponential_minus_one(re) : T{};
  T e[2] = {m * cosine - S(2) * half * half, (m + S(1)) * sine};  // e^z - 1 without cancellation
  T zero_safe = select(small, broadcast<T>(1), e[0] * e[0] + e[1] * e[1]);
  T closed[2] = {(re * e[0] + im * e[1]) / zero_safe, (im * e[0] - re * e[1]) / zero_safe};
  T k = S(1) / select(small, broadcast<T>(1), square);
  T r[2] = {(closed[0] - closed[0] * closed[0] + closed[1] * closed[1]) * k,
            (closed[1] - S(2) * closed[0] * closed[1]) * k};
  for (int n = 0; n < 2; ++n) c[n] = select(small, series[n], closed[n]);
  dc[0] = select(small, slope[0], r[0] * re + r[1] * im - closed[0]);
  dc[1] = select(small, slope[1], r[1] * re - r[0] * im - closed[1]);
}

// Subgroups of the similarities of the plane that fix the origin: h = e^s R(a) diag(1, m), components a, m, s.
template <bool Rotation, bool Mirror, bool Log>
struct Planar {
  static constexpr int dimension = 2;
  static constexpr int element = Rotation + Mirror + Log;
  static constexpr int angle = 0, mirror = Rotation, scale = Rotation + Mirror;

  static constexpr int coords(int chart) {
    if (chart == kEmbed) return element + Rotation;
    return chart == kRelease && Log ? -1 : element;
  }

  // M = e^-s diag(1, m) R(-a), for one element.
  template <class S>
  PGCONV_INLINE void inverse_matrix(const S* h, S* M) {
    double a = Rotation ? h[angle] : 0, m = Mirror ? h[mirror] : 1, k = Log ? PGCONV_MATH(exp)(-double(h[scale])) : 1;
    double c = k * PGCONV_MATH(cos)(a), s = k * PGCONV_MATH(sin)(a);
    M[0] = S(c), M[1] = S(s), M[2] = S(-m * s), M[3] = S(m * c);
  }
  template <class S>
  PGCONV_INLINE void inverse_matrix_backward(const S* h, const double* gM, double* gh) {
    double a = Rotation ? h[angle] : 0, m = Mirror ? h[mirror] : 1, k = Log ? PGCONV_MATH(exp)(-double(h[scale])) : 1;
    double c = k * PGCONV_MATH(cos)(a), s = k * PGCONV_MATH(sin)(a);
    if (Rotation) gh[angle] += -s * gM[0] + c * gM[1] - m * c * gM[2] - m * s * gM[3];
    if (Mirror) gh[mirror] += -s * gM[2] + c * gM[3];
    if (Log) gh[scale] -= c * gM[0] + s * gM[1] - m * s * gM[2] + m * c * gM[3];
  }

  template <class T>
  PGCONV_INLINE void relative(const T* a, const T* b, T* g) {
    if (Rotation) g[angle] = wrap(Mirror ? a[mirror] * (b[angle] - a[angle]) : b[angle] - a[angle]);
    if (Mirror) g[mirror] = a[mirror] * b[mirror];
    if (Log) g[scale] = b[scale] - a[scale];
  }
  template <class T>
  PGCONV_INLINE void relative_backward(const T* a, const T* b, const T* gg, T* ga, T* gb) {
    if (Rotation) {
      T d = gg[angle];
      if (Mirror) {
        ga[mirror] += d * (b[angle] - a[angle]);
        d = d * a[mirror];
      }
      ga[angle] -= d;
      gb[angle] += d;
    }
    if (Mirror) {
      ga[mirror] += gg[mirror] * b[mirror];
      gb[mirror] += gg[mirror] * a[mirror];
    }
    if (Log) {
      ga[scale] -= gg[scale];
      gb[scale] += gg[scale];
    }
  }

  // All indices are known to the compiler, whatever the chart: otherwise a GPU keeps the numbers in memory.
  template <class T>
  PGCONV_INLINE void coordinates(int chart, const T* g, T* x) {
    using S = Scalar<T>;
    if (Rotation && chart == kEmbed) {
      sincos_half_turns(g[angle] * S(1 / kPi), x[1], x[0]);
      if (Mirror) x[2] = g[mirror];
      if (Log) x[2 + Mirror] = g[scale];
      return;
    }
    if (Rotation) {
      T a = g[angle];
      if (chart == kRelease) {
        T clockwise = Mirror ? -g[mirror] * a - S(0.5 * kPi) * (S(1) - g[mirror]) : -a;
        x[0] = (clockwise - S(2 * kPi) * flooring(clockwise * S(0.5 / kPi))) * S(1 / kPi) - S(1);
      } else {
        x[0] = chart == kProduct ? a * S(1 / kPi) : a;
      }
    }
    if (Mirror) x[mirror] = g[mirror];
    if (Log) x[scale] = g[scale];
  }
  template <class T>
  PGCONV_INLINE void coordinates_backward(int chart, const T* g, const T* gx, T* gg) {
    using S = Scalar<T>;
    if (Rotation && chart == kEmbed) {
      T sine, cosine;
      sincos_half_turns(g[angle] * S(1 / kPi), sine, cosine);
      gg[angle] += cosine * gx[1] - sine * gx[0];
      if (Mirror) gg[mirror] += gx[2];
      if (Log) gg[scale] += gx[2 + Mirror];
      return;
    }
    if (Rotation) {
      if (chart == kRelease) {
        T d = gx[0] * S(1 / kPi);
        if (Mirror) {
          gg[angle] -= d * g[mirror];
          gg[mirror] += d * (S(0.5 * kPi) - g[angle]);
        } else {
          gg[angle] -= d;
        }
      } else {
        gg[angle] += chart == kProduct ? gx[0] * S(1 / kPi) : gx[0];
      }
    }
    if (Mirror) gg[mirror] += gx[mirror];
    if (Log) gg[scale] += gx[scale];
  }

  // V^-1 t with the plane as complex numbers; the mirror takes no part in it.
  template <class T>
  PGCONV_INLINE void solve_jacobian(const T* g, const T* t, T* x) {
    T c[2] = {broadcast<T>(1), T{}}, dc[2];
    if (Rotation || Log) inverse_mean_exponential<Log>(Log ? g[scale] : T{}, Rotation ? g[angle] : T{}, c, dc);
    x[0] = c[0] * t[0] - c[1] * t[1];
    x[1] = c[0] * t[1] + c[1] * t[0];
  }
  template <class T>
  PGCONV_INLINE void solve_jacobian_backward(const T* g, const T* t, const T* gx, T* gg, T* gt) {
    T c[2] = {broadcast<T>(1), T{}}, dc[2];
    if (Rotation || Log) {
      inverse_mean_exponential<Log>(Log ? g[scale] : T{}, Rotation ? g[angle] : T{}, c, dc);
      T gc[2] = {gx[0] * t[0] + gx[1] * t[1], gx[1] * t[0] - gx[0] * t[1]};
      if (Log) gg[scale] += dc[0] * gc[0] + dc[1] * gc[1];
      if (Rotation) gg[angle] += dc[0] * gc[1] - dc[1] * gc[0];
    }
    gt[0] += c[0] * gx[0] + c[1] * gx[1];
    gt[1] += c[0] * gx[1] - c[1] * gx[0];
  }
};

// Y -> atan(sqrt Y) / sqrt Y and the coefficient (1 - theta/2 cot(theta/2)) / theta^2 of V^-1 as a function of
// Y = tan^2(theta / 4), on [0, 1.0001] (theta up to pi and the 1e-5 by which the canonical sign may exceed it).
// Relative errors 3e-9 and 4e-9 (float), below 1e-19 (double); no branch and no cancellation at the identity.
template <class S>
struct RotationSeries;
template <>
struct RotationSeries<float> {
  PGCONV_INLINE constexpr Polynomial<float, 10> atan() {
    return {{1.0f, -0.333332763f, 0.199980743f, -0.142600049f, 0.109322804f, -0.0834953789f, 0.0570862015f,
             -0.0303483682f, 0.0104856885f, -0.00170071295f}};
  }
  PGCONV_INLINE constexpr Polynomial<float, 9> jacobian() {
    return {{0.0833333336f, 0.0222221736f, -0.00634787653f, 0.00344244461f, -0.00222019962f, 0.00142862628f,
             -0.000767707126f, 0.000278577068f, -4.81884549e-5f}};
  }
};
template <>
struct RotationSeries<double> {
  PGCONV_INLINE constexpr Polynomial<double, 24> atan() {
    return {{1.0, -0.333333333333333306, 0.199999999999994685, -0.1428571428567345, 0.111111111094391391,
             -0.0909090904867860389, 0.0769230697369494946, -0.0666665793290134404, 0.0588227394184547712,
             -0.052626097441267776, 0.0475891945595677602, -0.0433483550534661696, 0.039541871453485818,
             -0.0357122277634609621, 0.0313090590548383968, -0.0258979021835791253, 0.0195269088849089905,
             -0.012931673409687484, 0.00723874935135905537, -0.00328622040458674996, 0.00115107506961758009,
             -0.000289967477667334191, 0.0000465367742446618552, -3.56226078140898517e-6}};
  }
  PGCONV_INLINE constexpr Polynomial<double, 24> jacobian() {
    return {{0.0833333333333333333, 0.0222222222222222219, -0.00634920634920628642, 0.00345679012345196673,
             -0.00230025118894262508, 0.00169226187775204845, -0.00132269942483085889, 0.0010766708188412639,
             -0.000902295595015818079, 0.000772870415658647127, -0.000673180085043918386, 0.00059348539158168401,
             -0.000526206480858399097, 0.000463859417717595865, -0.00039863044451191767, 0.000324589726509904473,
             -0.000241841475900512062, 0.000158758091526915486, -0.0000882997444871858284, 0.0000398983637235172142,
             -0.0000139269141520893984, 3.49919185413918275e-6, -5.60464172092706203e-7, 4.28352862374023631e-8}};
  }
};

// log(q) = G q_v with G = 2 atan2(n, w) / n = 4 P(Y) / (w + N), n = |q_v|, N = |q|, Y = n^2 / (w + N)^2, for the
// canonical sign of q (groups/so3.py), which is a constant for differentiation.
template <class T>
struct QuaternionLog {
  using S = Scalar<T>;
  T sign, w, v[3], N, D, Y, P, G;

  PGCONV_INLINE QuaternionLog of(const T* q) {
    QuaternionLog l;
    constexpr S tol = S(5e-6);
    T lead = broadcast<T>(1);
    for (int k = 3; k >= 1; --k) lead = select(absolute(q[k]) > tol, q[k], lead);
    lead = select(absolute(q[0]) > tol, q[0], lead);
    l.sign = select(lead < S(0), broadcast<T>(-1), broadcast<T>(1));
    l.w = l.sign * q[0];
    for (int k = 0; k < 3; ++k) l.v[k] = l.sign * q[k + 1];
    T square = dot3(l.v, l.v);
    l.N = square_root(l.w * l.w + square);
    l.N = select(l.N == S(0), broadcast<T>(1), l.N);  // padding quaternions of zeros have logarithm 0
    l.D = l.w + l.N;
    l.Y = square / (l.D * l.D);
    l.P = horner(RotationSeries<S>::atan(), l.Y);
    l.G = S(4) * l.P / l.D;
    return l;
  }
  PGCONV_INLINE void vector(const QuaternionLog& l, T* x) {
    for (int k = 0; k < 3; ++k) x[k] = l.G * l.v[k];
  }
  // gw: gradient of the rotation vector; gY: gradient of whatever else was computed from Y.
  PGCONV_INLINE void backward(const QuaternionLog& l, const T* gw, T gY, T* gq) {
    T iN = S(1) / l.N, iD = S(1) / l.D;
    T dY_dn2 = l.w * iN * iD * iD;
    T gG = dot3(gw, l.v);
    T dG_dn2 = (S(4) * horner_derivative(RotationSeries<S>::atan(), l.Y) * dY_dn2 - S(2) * l.P * iN * iD) * iD;
    T gn2 = S(2) * (gG * dG_dn2 + gY * dY_dn2);
    gq[0] -= l.sign * S(2) * iN * (gG * iN + gY * l.Y);
    for (int k = 0; k < 3; ++k) gq[k + 1] += l.sign * (l.G * gw[k] + gn2 * l.v[k]);
  }
};

// Rotations of space as quaternions (w, x, y, z).
struct Spatial {
  static constexpr int dimension = 3;
  static constexpr int element = 4;
  static constexpr int coords(int chart) { return chart == kEmbed ? 9 : chart == kRelease ? -1 : 3; }

  template <class T>
  PGCONV_INLINE void matrix(const T* q, T* R) {
    using S = Scalar<T>;
    T w = q[0], x = q[1], y = q[2], z = q[3];
    R[0] = S(1) - S(2) * (y * y + z * z), R[1] = S(2) * (x * y - w * z), R[2] = S(2) * (x * z + w * y);
    R[3] = S(2) * (x * y + w * z), R[4] = S(1) - S(2) * (x * x + z * z), R[5] = S(2) * (y * z - w * x);
    R[6] = S(2) * (x * z - w * y), R[7] = S(2) * (y * z + w * x), R[8] = S(1) - S(2) * (x * x + y * y);
  }
  template <class T>
  PGCONV_INLINE void matrix_backward(const T* q, const T* r, T* g) {
    using S = Scalar<T>;
    T w = q[0], x = q[1], y = q[2], z = q[3];
    g[0] += S(2) * (x * (r[7] - r[5]) + y * (r[2] - r[6]) + z * (r[3] - r[1]));
    g[1] += S(2) * (y * (r[1] + r[3]) + z * (r[2] + r[6]) + w * (r[7] - r[5])) - S(4) * x * (r[4] + r[8]);
    g[2] += S(2) * (x * (r[1] + r[3]) + z * (r[5] + r[7]) + w * (r[2] - r[6])) - S(4) * y * (r[0] + r[8]);
    g[3] += S(2) * (x * (r[2] + r[6]) + y * (r[5] + r[7]) + w * (r[3] - r[1])) - S(4) * z * (r[0] + r[4]);
  }

  template <class S>
  PGCONV_INLINE void inverse_matrix(const S* h, S* M) {
    double q[4], R[9];
    for (int k = 0; k < 4; ++k) q[k] = h[k];
    matrix(q, R);
    for (int k = 0; k < 9; ++k) M[k] = S(R[k % 3 * 3 + k / 3]);
  }
  template <class S>
  PGCONV_INLINE void inverse_matrix_backward(const S* h, const double* gM, double* gh) {
    double q[4], gR[9];
    for (int k = 0; k < 4; ++k) q[k] = h[k];
    for (int k = 0; k < 9; ++k) gR[k] = gM[k % 3 * 3 + k / 3];
    matrix_backward(q, gR, gh);
  }

  // conj(a) b
  template <class T>
  PGCONV_INLINE void relative(const T* a, const T* b, T* g) {
    T c[3];
    cross(a + 1, b + 1, c);
    g[0] = a[0] * b[0] + dot3(a + 1, b + 1);
    for (int k = 1; k < 4; ++k) g[k] = a[0] * b[k] - b[0] * a[k] - c[k - 1];
  }
  template <class T>
  PGCONV_INLINE void relative_backward(const T* a, const T* b, const T* g, T* ga, T* gb) {
    T ag[3], bg[3];
    cross(a + 1, g + 1, ag);
    cross(b + 1, g + 1, bg);
    ga[0] += g[0] * b[0] + dot3(g + 1, b + 1);
    gb[0] += g[0] * a[0] - dot3(g + 1, a + 1);
    for (int k = 1; k < 4; ++k) {
      ga[k] += g[0] * b[k] - b[0] * g[k] - bg[k - 1];
      gb[k] += g[0] * a[k] + a[0] * g[k] + ag[k - 1];
    }
  }

  template <class T>
  PGCONV_INLINE void coordinates(int chart, const T* g, T* x) {
    if (chart == kEmbed) return matrix(g, x);
    QuaternionLog<T>::vector(QuaternionLog<T>::of(g), x);
    if (chart == kProduct)
      for (int k = 0; k < 3; ++k) x[k] = x[k] * Scalar<T>(1 / kPi);
  }
  template <class T>
  PGCONV_INLINE void coordinates_backward(int chart, const T* g, const T* gx, T* gg) {
    if (chart == kEmbed) return matrix_backward(g, gx, gg);
    T gw[3];
    for (int k = 0; k < 3; ++k) gw[k] = chart == kProduct ? gx[k] * Scalar<T>(1 / kPi) : gx[k];
    QuaternionLog<T>::backward(QuaternionLog<T>::of(g), gw, T{}, gg);
  }

  // V^-1 t = t - w x t / 2 + k w x (w x t)
  template <class T>
  PGCONV_INLINE void solve_jacobian(const T* g, const T* t, T* x) {
    using S = Scalar<T>;
    auto l = QuaternionLog<T>::of(g);
    T w[3], once[3], twice[3], k = horner(RotationSeries<S>::jacobian(), l.Y);
    QuaternionLog<T>::vector(l, w);
    cross(w, t, once);
    cross(w, once, twice);
    for (int n = 0; n < 3; ++n) x[n] = t[n] - S(0.5) * once[n] + k * twice[n];
  }
  template <class T>
  PGCONV_INLINE void solve_jacobian_backward(const T* g, const T* t, const T* gx, T* gg, T* gt) {
    using S = Scalar<T>;
    auto l = QuaternionLog<T>::of(g);
    T w[3], once[3], twice[3], k = horner(RotationSeries<S>::jacobian(), l.Y);
    QuaternionLog<T>::vector(l, w);
    cross(w, t, once);
    cross(w, once, twice);
    T g_twice[3], g_once[3], gw[3], c[3];
    for (int n = 0; n < 3; ++n) g_twice[n] = k * gx[n];
    cross(g_twice, w, c);
    for (int n = 0; n < 3; ++n) g_once[n] = c[n] - S(0.5) * gx[n];
    cross(once, g_twice, gw);
    cross(t, g_once, c);
    for (int n = 0; n < 3; ++n) gw[n] += c[n];
    cross(g_once, w, c);
    for (int n = 0; n < 3; ++n) gt[n] += gx[n] + c[n];
    QuaternionLog<T>::backward(l, gw, dot3(gx, twice) * horner_derivative(RotationSeries<S>::jacobian(), l.Y), gg);
  }
};

}  // namespace PGCONV_ISA
}  // namespace pgconv
