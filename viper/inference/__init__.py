"""New videos straight to predictions: the encoders that a checkpoint's features were made with, run in memory."""
