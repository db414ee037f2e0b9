"""What is where and when: roads, paths, the ego vehicle, what makes it act, who else is there."""
