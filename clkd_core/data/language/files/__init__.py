"""Files that others wrote: annotations read strictly, images found and judged."""
