"""Where is driven: the scripted scene around an ego vehicle that goes its own way."""
