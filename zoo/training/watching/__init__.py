"""How a training is watched: progress as it runs, trackers that others wrote, and a report at its end."""
