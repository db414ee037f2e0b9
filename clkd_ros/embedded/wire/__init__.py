"""ROS 2 on the wire: message classes, CDR, DDS topics and quality of service."""
