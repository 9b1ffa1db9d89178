// Runs an OpenVINO file with the Winograd extension, without Python: compares what it computes
// with the numbers in a file. Arguments: the extension, the .xml, images, expected logits.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <openvino/openvino.hpp>
#include <vector>

std::vector<float> numbers(const char* path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  const float* const begin = reinterpret_cast<const float*>(bytes.data());
  return {begin, begin + bytes.size() / sizeof(float)};
}

int main(int, char** arguments) {
  ov::Core core;
  core.add_extension(arguments[1]);
  ov::CompiledModel model = core.compile_model(arguments[2], "CPU", ov::hint::inference_precision(ov::element::f32));
  std::vector<float> images = numbers(arguments[3]), expected = numbers(arguments[4]);
  ov::InferRequest request = model.create_infer_request();
  request.set_input_tensor(ov::Tensor(ov::element::f32, model.input().get_shape(), images.data()));
  request.infer();
  const ov::Tensor logits = request.get_output_tensor();
  if (logits.get_size() != expected.size()) return 2;
  float error = 0, largest = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error = std::max(error, std::abs(logits.data<float>()[i] - expected[i]));
    largest = std::max(largest, std::abs(expected[i]));
  }
  std::printf("relative error %.1e\n", error / largest);
  return error <= 1e-4f * largest ? 0 : 1;
}
