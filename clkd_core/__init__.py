"""The ROS-free half of CLKD Drive: data, models, distillation, metrics, runtime and reports."""
