// Compares winograd.cpp with a direct convolution in float64. Prints the number of cases and the
// largest error, relative to the largest output of its case; exits with status 1 if that is
// more than 5e-6. One more case, of two parts, may have an error of 1e-4. test_driver.py builds it
// with winograd.cpp.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

extern "C" int winograd_conv(const float* x, const float* w, const float* bias, float* y, int64_t images,
                             int64_t height, int64_t width, int64_t in_channels, int64_t out_channels,
                             int64_t groups, int64_t dilation, int relu, int parts, int threads);

struct Case {
  int64_t images, height, width, in_channels, out_channels, groups, dilation;
  bool bias, relu;
  int threads;
};

std::vector<float> random_numbers(std::mt19937& generator, int64_t size) {
  std::vector<float> numbers(size);
  // A distribution of the standard library may differ from one library to another.
  for (float& number : numbers) number = generator() / 2147483648.0f - 1;
  return numbers;
}

// Lays kernels out as `pack` in conv.py does, from (out, in / groups, 3, 3).
std::vector<float> packed(const Case& c, const std::vector<float>& weight) {
  const int64_t group_in = c.in_channels / c.groups, group_out = c.out_channels / c.groups, piece = 16;
  std::vector<float> result;
  for (int64_t group = 0; group < c.groups; ++group)
    for (int64_t first = 0; first < group_out; first += piece)
      for (int64_t tap = 0; tap < group_in * 9; ++tap)
        for (int64_t out = first; out < std::min(first + piece, group_out); ++out)
          result.push_back(weight[(group * group_out + out) * group_in * 9 + tap]);
  return result;
}

double direct(const Case& c, const std::vector<float>& x, const std::vector<float>& weight,
              const std::vector<float>& bias, int64_t image, int64_t row, int64_t column, int64_t out) {
  const int64_t group_in = c.in_channels / c.groups, group = out / (c.out_channels / c.groups);
  double sum = c.bias ? bias[out] : 0;
  for (int64_t i = 0; i < 3; ++i)
    for (int64_t j = 0; j < 3; ++j) {
      const int64_t from_row = row + (i - 1) * c.dilation, from_column = column + (j - 1) * c.dilation;
      if (from_row < 0 || from_row >= c.height || from_column < 0 || from_column >= c.width) continue;
      const float* const pixel =
          &x[((image * c.height + from_row) * c.width + from_column) * c.in_channels + group * group_in];
      for (int64_t in = 0; in < group_in; ++in)
        sum += double(pixel[in]) * weight[(out * group_in + in) * 9 + i * 3 + j];
    }
  return c.relu ? std::max(sum, 0.0) : sum;
}

double error(const Case& c, int parts, std::mt19937& generator) {
  const auto x = random_numbers(generator, c.images * c.height * c.width * c.in_channels);
  const auto weight = random_numbers(generator, c.out_channels * c.in_channels / c.groups * 9);
  const auto bias = random_numbers(generator, c.out_channels);
  std::vector<float> y(c.images * c.height * c.width * c.out_channels, NAN);
  if (winograd_conv(x.data(), packed(c, weight).data(), c.bias ? bias.data() : nullptr, y.data(), c.images, c.height,
                    c.width, c.in_channels, c.out_channels, c.groups, c.dilation, c.relu, parts, c.threads))
    return INFINITY;
  double largest = 0, off = 0;
  const float* got = y.data();
  for (int64_t image = 0; image < c.images; ++image)
    for (int64_t row = 0; row < c.height; ++row)
      for (int64_t column = 0; column < c.width; ++column)
        for (int64_t out = 0; out < c.out_channels; ++out, ++got) {
          const double expected = direct(c, x, weight, bias, image, row, column, out);
          largest = std::max(largest, std::abs(expected));
          if (!std::isfinite(*got)) return INFINITY;
          off = std::max(off, std::abs(*got - expected));
        }
  return largest > 0 ? off / largest : off;
}

int main() {
  std::vector<Case> cases;
  const int64_t sizes[][2] = {{1, 1}, {2, 3}, {7, 5}, {16, 12}, {33, 18}};
  const int64_t channels[][2] = {{1, 2}, {7, 13}, {17, 37}};
  for (const int64_t dilation : {1, 2, 4})
    for (const int64_t groups : {1, 2, 4})
      for (const auto& size : sizes)
        for (const auto& of_group : channels) {
          const bool odd = cases.size() % 2;  // 3 of each, so all pairs of settings occur
          cases.push_back({odd ? 1 : 2, size[0], size[1], of_group[0] * groups, of_group[1] * groups, groups, dilation,
                           odd, cases.size() % 4 < 2, odd ? 3 : 1});
        }
  // More tiles than are transformed at a time, more channels than a slice has.
  cases.push_back({1, 56, 60, 2000, 3, 1, 1, true, false, 3});
  double worst = 0;
  std::mt19937 generator(0);
  for (const Case& c : cases) worst = std::max(worst, error(c, 0, generator));
  // Without matrix units it is computed in tiles of 6x6 pixels.
  const double of_parts = error({1, 54, 54, 129, 131, 1, 1, true, true, 3}, 2, generator);
  std::printf("%zu cases, largest error %.1e; of two parts %.1e\n", cases.size(), worst, of_parts);
  return worst <= 5e-6 && of_parts <= 1e-4 ? 0 : 1;
}
