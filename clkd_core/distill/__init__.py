"""Curriculum distillation: hardness mining, progressive release and the training loop."""
