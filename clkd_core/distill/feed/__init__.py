"""What goes into training: keyframes as samples, looks as batches, one drawn ahead."""
