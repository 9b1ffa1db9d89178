"""Export to ONNX, OpenVINO and TorchScript; every file is verified before it is saved."""
