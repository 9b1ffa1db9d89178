// Winograd's convolution of winograd.cpp as an operation of OpenVINO's CPU plugin.
//
// Its inputs are the images, (images, height, width, in_channels), the packed kernels and the
// bias, all float32. `core.add_extension` loads it. It runs in the threads of the model that it
// is part of.

#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <openvino/op/op.hpp>
#include <tbb/task_arena.h>

#include <map>
#include <string>

extern "C" int winograd_conv(const float* x, const float* w, const float* bias, float* y, int64_t images,
                             int64_t height, int64_t width, int64_t in_channels, int64_t out_channels,
                             int64_t groups, int64_t dilation, int relu, int parts, int threads);

namespace {

// Parts of a float32 number in the products, by the names that PyTorch has for precisions.
const std::map<std::string, int> PARTS{{"highest", 0}, {"high", 2}, {"medium", 1}};

class WinogradConvolution : public ov::op::Op {
 public:
  OPENVINO_OP("WinogradConvolution", "mmseg_repvgg");

  WinogradConvolution() = default;

  WinogradConvolution(const ov::OutputVector& inputs, const WinogradConvolution& like)
      : Op(inputs), out_channels_(like.out_channels_), groups_(like.groups_), dilation_(like.dilation_),
        relu_(like.relu_), precision_(like.precision_) {
    constructor_validate_and_infer_types();
  }

  void validate_and_infer_types() override {
    ov::PartialShape shape = get_input_partial_shape(0);
    NODE_VALIDATION_CHECK(this, shape.rank().is_static() && shape.size() == 4 && shape[3].is_static(),
                          "needs images (N, H, W, C) of a fixed C, but got ", shape);
    NODE_VALIDATION_CHECK(this, out_channels_ > 0 && groups_ > 0 && dilation_ > 0 && out_channels_ % groups_ == 0 &&
                                    shape[3].get_length() % groups_ == 0,
                          "cannot convolve ", shape, " to ", out_channels_, " channels in ", groups_,
                          " groups with dilation ", dilation_);
    NODE_VALIDATION_CHECK(this, PARTS.count(precision_), "knows no precision '", precision_, "'");
    const ov::Dimension weights = out_channels_ * (shape[3].get_length() / groups_) * 9;
    NODE_VALIDATION_CHECK(this, get_input_partial_shape(1).compatible(ov::PartialShape{weights}) &&
                                    get_input_partial_shape(2).compatible(ov::PartialShape{out_channels_}),
                          "needs ", weights, " weights and ", out_channels_, " biases, but got ",
                          get_input_partial_shape(1), " and ", get_input_partial_shape(2));
    for (size_t i = 0; i < get_input_size(); ++i)
      NODE_VALIDATION_CHECK(this, get_input_element_type(i).compatible(ov::element::f32), "needs float32, but got ",
                            get_input_element_type(i));
    shape[3] = out_channels_;
    set_output_type(0, ov::element::f32, shape);
  }

  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    return std::make_shared<WinogradConvolution>(inputs, *this);
  }

  bool visit_attributes(ov::AttributeVisitor& visitor) override {
    visitor.on_attribute("out_channels", out_channels_);
    visitor.on_attribute("groups", groups_);
    visitor.on_attribute("dilation", dilation_);
    visitor.on_attribute("relu", relu_);
    visitor.on_attribute("precision", precision_);
    return true;
  }

  bool has_evaluate() const override { return true; }

  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
    ov::Shape shape = inputs[0].get_shape();
    const size_t in_channels = shape[3];
    shape[3] = out_channels_;
    outputs[0].set_shape(shape);
    return winograd_conv(inputs[0].data<const float>(), inputs[1].data<const float>(), inputs[2].data<const float>(),
                         outputs[0].data<float>(), shape[0], shape[1], shape[2], in_channels, out_channels_, groups_,
                         dilation_, relu_, PARTS.at(precision_), tbb::this_task_arena::max_concurrency()) == 0;
  }

 private:
  int64_t out_channels_ = 0, groups_ = 1, dilation_ = 1;
  bool relu_ = false;
  std::string precision_ = "highest";
};

}  // namespace

OPENVINO_CREATE_EXTENSIONS(
    std::vector<ov::Extension::Ptr>({std::make_shared<ov::OpExtension<WinogradConvolution>>()}));
