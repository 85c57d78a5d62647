"""Short reaction videos with known answers, for the demo and the tests.

A warped photograph shows three of the Hume-Reaction targets, a synthetic voice two, the subtitles the other two.
"""

from viper.demo.dataset import clip_frames, make_dataset, plan_dataset, write_clip
from viper.demo.face import render_frames
from viper.demo.identity import Identity
from viper.demo.media import write_video
from viper.demo.reaction import CHANNELS, EMOTIONS
from viper.demo.voice import voice
from viper.demo.words import make_cues, write_srt

__all__ = [
    "CHANNELS",
    "EMOTIONS",
    "Identity",
    "clip_frames",
    "make_cues",
    "make_dataset",
    "plan_dataset",
    "render_frames",
    "voice",
    "write_clip",
    "write_srt",
    "write_video",
]
