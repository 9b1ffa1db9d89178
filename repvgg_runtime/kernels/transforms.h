// Winograd's transforms of one row or column (Lavin and Gray, CVPR 2016,
// https://arxiv.org/abs/1509.09308), for tiles of 4 and of 6 output pixels. Points of
// interpolation are 0, infinity and pairs of opposite sign, which share their terms.

#pragma once

// F(4, 3), of the points 0, A, -A, B, -B and infinity. Of all pairs of sixteenths this one has the
// least error in float32.
struct Tiles4 {
  static constexpr int TILE = 4;         // output pixels of a tile, in each direction
  static constexpr int SIDE = TILE + 2;  // input pixels
  static constexpr int FREQUENCIES = SIDE * SIDE;
  static constexpr float A = 0.625f, B = 1.5f, A2 = A * A, B2 = B * B;

  template <class V>
  static void input(const V (&x)[SIDE], V (&v)[SIDE]) {
    const V even_a = x[4] - B2 * x[2], odd_a = A * (x[3] - B2 * x[1]);
    const V even_b = x[4] - A2 * x[2], odd_b = B * (x[3] - A2 * x[1]);
    v[0] = A2 * B2 * x[0] - (A2 + B2) * x[2] + x[4];
    v[1] = even_a + odd_a;
    v[2] = even_a - odd_a;
    v[3] = even_b + odd_b;
    v[4] = even_b - odd_b;
    v[5] = A2 * B2 * x[1] - (A2 + B2) * x[3] + x[5];
  }

  template <class V>
  static void kernel(const V (&g)[3], V (&u)[SIDE]) {
    constexpr float scale = 1 / (A2 * B2);
    constexpr float scale_a = 1 / (2 * A2 * (A2 - B2)), scale_b = 1 / (2 * B2 * (B2 - A2));
    const V even_a = scale_a * g[0] + (scale_a * A2) * g[2], odd_a = (scale_a * A) * g[1];
    const V even_b = scale_b * g[0] + (scale_b * B2) * g[2], odd_b = (scale_b * B) * g[1];
    u[0] = scale * g[0];
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = g[2];
  }

  template <class V>
  static void output(const V (&m)[SIDE], V (&y)[TILE]) {
    const V even_a = m[1] + m[2], odd_a = A * (m[1] - m[2]);
    const V even_b = m[3] + m[4], odd_b = B * (m[3] - m[4]);
    y[0] = m[0] + even_a + even_b;
    y[1] = odd_a + odd_b;
    y[2] = A2 * even_a + B2 * even_b;
    y[3] = A2 * odd_a + B2 * odd_b + m[5];
  }
};

// F(6, 3), of the points 0, A, -A, B, -B, C, -C and infinity, likewise of all triples of eighths.
// In two dimensions it needs 1.27 times fewer multiplications than F(4, 3), with 7 times its error.
struct Tiles6 {
  static constexpr int TILE = 6;
  static constexpr int SIDE = TILE + 2;
  static constexpr int FREQUENCIES = SIDE * SIDE;
  static constexpr float A = 0.5f, B = 1, C = 2, A2 = A * A, B2 = B * B, C2 = C * C;

  template <class V>
  static void input(const V (&x)[SIDE], V (&v)[SIDE]) {
    constexpr float ab = A2 * B2, ac = A2 * C2, bc = B2 * C2;
    const V even_a = x[6] - (B2 + C2) * x[4] + bc * x[2], odd_a = A * (x[5] - (B2 + C2) * x[3] + bc * x[1]);
    const V even_b = x[6] - (A2 + C2) * x[4] + ac * x[2], odd_b = B * (x[5] - (A2 + C2) * x[3] + ac * x[1]);
    const V even_c = x[6] - (A2 + B2) * x[4] + ab * x[2], odd_c = C * (x[5] - (A2 + B2) * x[3] + ab * x[1]);
    v[0] = x[6] - (A2 + B2 + C2) * x[4] + (ab + ac + bc) * x[2] - A2 * bc * x[0];
    v[1] = even_a + odd_a;
    v[2] = even_a - odd_a;
    v[3] = even_b + odd_b;
    v[4] = even_b - odd_b;
    v[5] = even_c + odd_c;
    v[6] = even_c - odd_c;
    v[7] = x[7] - (A2 + B2 + C2) * x[5] + (ab + ac + bc) * x[3] - A2 * bc * x[1];
  }

  template <class V>
  static void kernel(const V (&g)[3], V (&u)[SIDE]) {
    constexpr float scale = -1 / (A2 * B2 * C2);
    constexpr float scale_a = 1 / (2 * A2 * (A2 - B2) * (A2 - C2));
    constexpr float scale_b = 1 / (2 * B2 * (B2 - A2) * (B2 - C2));
    constexpr float scale_c = 1 / (2 * C2 * (C2 - A2) * (C2 - B2));
    const V even_a = scale_a * g[0] + (scale_a * A2) * g[2], odd_a = (scale_a * A) * g[1];
    const V even_b = scale_b * g[0] + (scale_b * B2) * g[2], odd_b = (scale_b * B) * g[1];
    const V even_c = scale_c * g[0] + (scale_c * C2) * g[2], odd_c = (scale_c * C) * g[1];
    u[0] = scale * g[0];
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = even_c + odd_c;
    u[6] = even_c - odd_c;
    u[7] = g[2];
  }

  template <class V>
  static void output(const V (&m)[SIDE], V (&y)[TILE]) {
    const V even_a = m[1] + m[2], odd_a = A * (m[1] - m[2]);
    const V even_b = m[3] + m[4], odd_b = B * (m[3] - m[4]);
    const V even_c = m[5] + m[6], odd_c = C * (m[5] - m[6]);
    y[0] = m[0] + even_a + even_b + even_c;
    y[1] = odd_a + odd_b + odd_c;
    y[2] = A2 * even_a + B2 * even_b + C2 * even_c;
    y[3] = A2 * odd_a + B2 * odd_b + C2 * odd_c;
    y[4] = A2 * A2 * even_a + B2 * B2 * even_b + C2 * C2 * even_c;
    y[5] = A2 * A2 * odd_a + B2 * B2 * odd_b + C2 * C2 * odd_c + m[7];
  }
};
