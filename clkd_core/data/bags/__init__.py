"""ROS 2 bags: the files, their messages and topics, and the frames read from them."""
