"""Decoding of video, sound and subtitles. No models here."""
