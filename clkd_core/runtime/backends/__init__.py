"""What computes a decision: OpenVINO on a CPU, a CUDA graph, plain torch, ONNX Runtime."""
