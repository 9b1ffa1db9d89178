"""Files of the fused model for ONNX Runtime, OpenVINO and TorchScript, each proved."""
