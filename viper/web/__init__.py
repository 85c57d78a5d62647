"""The page to try a checkpoint on, in a browser on the same machine: the extra `page` (Gradio)."""
