"""One person's face in a clip: detected, followed, cropped."""
