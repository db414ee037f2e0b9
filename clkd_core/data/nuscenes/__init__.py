"""nuScenes, any version folder, through its own devkit (extra ``nuscenes``)."""
