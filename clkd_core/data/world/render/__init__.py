"""From a scene to six camera images: shapes, ground, sky, weather."""
