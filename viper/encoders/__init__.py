"""Encoders: models that turn a clip's frames, sound or words into feature tokens. They know no folders."""
