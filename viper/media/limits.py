"""What is believed of a file: above these limits it is a lie, a mistake or an attack, and would fill the memory."""

from __future__ import annotations

# Of one picture or frame. 8K video has 33 million; 16,000 x 16,000 would be 256 million and 768 MB as RGB.
MAX_PIXELS = 80_000_000
# Of the file of one picture: as much as it holds without compression.
MAX_PICTURE_BYTES = 3 * MAX_PIXELS
# Of all frames taken from one video: 36 of 8K, 3.6 GB as RGB.
MAX_CLIP_PIXELS = 1_200_000_000
# Of the sound of one clip: 460 MB at 16 kHz. A tiny file of silence can claim, and decode to, weeks.
MAX_SOUND_SECONDS = 2 * 3600
# Hz. Resampling from rates outside would blow up the sound or the filter.
SOUND_RATES = (1000, 768_000)
