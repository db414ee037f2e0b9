"""The rclpy subset over Cyclone DDS, used only where rclpy cannot be imported."""
