"""What outputs mean, and how well an engine gives them: one file a task."""
