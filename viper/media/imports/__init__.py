"""Features that other tools made, read without running anything in their files."""
