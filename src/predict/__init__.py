"""Using a run: `predictor` turns image files into class probabilities, `session` is what the terminal shows of it."""
