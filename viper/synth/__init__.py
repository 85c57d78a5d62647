"""Short reaction videos with known answers, for the demo and the tests.

A warped photograph shows three of the Hume-Reaction targets, a synthetic voice two, the subtitles the other two.
"""

from viper.synth.bursts import burst_frames, write_bursts
from viper.synth.dataset import clip_frames, make_dataset, plan_dataset, write_clip
from viper.synth.face import render_frames
from viper.synth.identity import Identity
from viper.synth.media import write_video, write_wav
from viper.synth.targets import CHANNELS, EMOTIONS
from viper.synth.voice import voice
from viper.synth.words import make_cues, write_srt

__all__ = [
    "CHANNELS",
    "EMOTIONS",
    "Identity",
    "burst_frames",
    "clip_frames",
    "make_cues",
    "make_dataset",
    "plan_dataset",
    "render_frames",
    "voice",
    "write_bursts",
    "write_clip",
    "write_srt",
    "write_video",
    "write_wav",
]
