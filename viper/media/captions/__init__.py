"""What subtitle files are made of: their encodings, formats and names, and lines that roll from cue to cue."""
